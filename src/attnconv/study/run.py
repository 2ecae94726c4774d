"""Running a study: what is missing of it, in its folder, on this machine; `attnconv.study.ray` does it on others.

An executor does runs, in any order, each in its folder, where what they come to stands. It is a generator of the runs
that have come to an end, and of None now and then. When it is closed, as at Ctrl-C and SIGTERM, the runs under way are
saved. InputError, before any run is begun, if one needs what is not there.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

from attnconv import checks, files
from attnconv.files import locked
from attnconv.shown import shown
from attnconv.signals import termination_raised
from attnconv.study.folder import StudyFolder, is_archive, record, write_records
from attnconv.study.plan import PlannedRun, Study
from attnconv.study.process import RunProcess
from attnconv.study.statistics import seeds_to_reach

KEPT = ("done", "diverged")
PAUSE = 0.2  # seconds between looks at the processes
EVERY = 1.0  # seconds between looks at the runs' files

Executor = Callable[[StudyFolder, Sequence[PlannedRun], Study], Generator[PlannedRun | None]]


def run_study(
    study: Study,
    folder: StudyFolder,
    executor: Executor,
    *,
    extend: bool = False,
    mix_versions: bool = False,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Do the runs of ``study`` that are not done; return the records of all.

    Runs that are done are kept, and so are diverged ones; interrupted ones go on from their checkpoints; failed ones
    are tried again. Ctrl-C and SIGTERM save the runs under way and are raised.

    Raises:
        InputError: as `Study.require_runnable`, `StudyFolder.prepare` and the executor, before anything runs; the
            folder holds records without their runs; another process is at work in it.
    """
    import torch  # here: what starts a run on another machine needs none of it

    study.require_runnable()
    folder.make()
    if is_archive(folder):
        raise checks.InputError(
            f"{folder.path} holds the records of runs and not the runs, so it is for `study report` alone: give "
            "another --out"
        )
    with locked(folder.path), termination_raised():
        threads = max(1, torch.get_num_threads() // max(1, torch.cuda.device_count()))
        study = folder.prepare(study, threads=threads, extend=extend, mix_versions=mix_versions)
        runs = study.runs()
        left = [planned for planned in runs if record(folder, planned)["state"] not in KEPT]
        try:
            with Progress(folder, left, total=len(runs), shown=progress) as display:
                if left and (note := too_few_seeds(study)):
                    display.line(note)
                if display.done:
                    display.line(f"{display.done} of {len(runs)} runs need nothing more, {len(left)} are left")
                with contextlib.closing(executor(folder, left, study)) as under_way:
                    for planned in under_way:
                        if planned is not None:
                            display.ended(record(folder, planned))
                            write_records(folder, study)
                        display.tick()
        finally:
            found = write_records(folder, study)
    return found


def too_few_seeds(study: Study) -> str:
    """Return what to say, before the hours are spent, of a study whose test can find nothing; "" of others."""
    comparisons = max(map(len, study.blocks().values())) - 1
    if not comparisons or len(study.seeds) >= (enough := seeds_to_reach(comparisons)):
        return ""
    few = f"{len(study.seeds)} seed{'s' * (len(study.seeds) > 1)}"
    return f"note: with {few} no difference can come out below p = 0.05, however large; --seeds {enough} is enough"


def on_this_machine(folder: StudyFolder, runs: Sequence[PlannedRun], study: Study) -> Generator[PlannedRun | None]:
    """Do one run at a time with all CPU threads, or one a GPU; memory is not reserved.

    While a run is under way the next one, if it takes no GPU, loads its libraries.
    """
    free = _visible_gpus()
    needs = {planned.name: gpus_of(planned, len(free)) for planned in runs}
    waiting, busy = list(runs), dict[RunProcess, list[str]]()
    ahead: RunProcess | None = None  # of the next run: loading its libraries
    try:
        while waiting or busy:
            for process in [process for process in busy if process.ended()]:
                free += busy.pop(process)
                yield process.planned
            while waiting and _fits(needs[waiting[0].name], len(free), len(busy)):
                planned = waiting.pop(0)
                taken = [free.pop(0) for _ in range(needs[planned.name])]
                process, ahead = ahead or RunProcess(folder, planned, study.threads, gpus=taken), None
                busy[process] = taken
                process.begin()
            if ahead is None and waiting and not needs[waiting[0].name]:
                ahead = RunProcess(folder, waiting[0], study.threads)
            yield None
            time.sleep(PAUSE)
    finally:
        left = [*busy, *([ahead] if ahead else [])]
        for process in left:
            process.stop()
        for process in left:
            process.wait()


def _fits(need: int, free: int, busy: int) -> bool:
    """True if the next run may begin: on free GPUs, or, if it takes none, alone."""
    return need <= free if need else not busy


def _visible_gpus() -> list[str]:
    """Return the GPUs of this process, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(i) for i in range(count)]


def gpus_of(planned: PlannedRun, present: int) -> int:
    """Return how many of ``present`` GPUs, on one machine, a run takes.

    Raises:
        InputError: they are too few, or there is none and its arithmetic has to have one.
    """
    config = planned.config
    if config.device not in ("auto", "cuda") or (config.device == "auto" and not present):
        if config.precision in ("tf32", "fp16"):
            raise checks.InputError(
                f"arm {planned.arm!r} has precision {config.precision!r}, which needs a GPU: here is none"
            )
        return 0
    count = present if config.devices == "auto" else config.devices or 1
    if not 1 <= count <= present:
        raise checks.InputError(
            f"arm {planned.arm!r} has devices {max(count, 1)}, and no machine here has more than {present} GPUs"
        )
    return count


class Progress:
    """A study on stderr: a line a run that has ended, and on a terminal a bar over the epochs of all, in a context.

    Args:
        folder: of the study.
        left: the runs that are to be done now.
        total: how many runs the study has.
        shown: False shows nothing at all.
    """

    def __init__(self, folder: StudyFolder, left: Sequence[PlannedRun], *, total: int, shown: bool) -> None:
        from rich import progress
        from rich.console import Console

        self.folder, self.left, self.total = folder, list(left), total
        self.done = total - len(left)
        self.bar = progress.Progress(
            *(progress.TextColumn("{task.description}"), progress.BarColumn()),
            *(progress.TaskProgressColumn(), progress.TimeRemainingColumn()),
            console=Console(stderr=True, highlight=False, quiet=not shown),
            transient=True,
            disable=not (shown and sys.stderr.isatty()),
        )
        self.task = self.bar.add_task("", total=sum(planned.config.epochs for planned in left))
        self._looked = 0.0

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def tick(self) -> None:
        """Move the bar, if it is time to."""
        if self.bar.disable or time.monotonic() - self._looked < EVERY:
            return
        self._looked = time.monotonic()
        epochs = sum(_epochs(self.folder, planned) for planned in self.left)
        self.bar.update(self.task, completed=epochs, description=f"{self.done} of {self.total} runs, epochs")

    def ended(self, record: dict[str, Any]) -> None:
        """Print the line of a run."""
        self.done += 1
        name, state = f"{record['arm']}-seed{record['seed']}", record["state"]
        score, value = ("mean IoU", record["miou"]) if "miou" in record else ("top-1", record["top1"])
        outcome = f"{score} {value:.2f}%, {record['seconds']:.0f} s" if state == "done" else record["reason"]
        self.line(f"{self.done}/{self.total} {name}: {state}, {outcome}")

    def line(self, text: str) -> None:
        """Print a line."""
        self.bar.console.print(shown(text), markup=False, soft_wrap=True)


def _epochs(folder: StudyFolder, planned: PlannedRun) -> int:
    """Return the epochs that a run has done: the rows of its metrics.csv."""
    try:
        return max(files.read_text(folder.run(planned).metrics, at_most=files.TABLE).count("\n") - 1, 0)
    except (OSError, ValueError):
        return 0
