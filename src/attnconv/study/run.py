"""Running a study: what is missing of it, in its folder, on this machine; `attnconv.study.ray` does it on others.

An executor does runs, in any order, each in its folder, where what they come to stands. It is a generator of the runs
that have come to an end. When it is closed, as at Ctrl-C and SIGTERM, the runs under way are saved. InputError, before
any run is begun, if one needs what is not there.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

from attnconv import checks
from attnconv.files import locked
from attnconv.shown import shown
from attnconv.signals import termination_raised
from attnconv.study.folder import Record, StudyFolder, is_archive, record, write_records
from attnconv.study.plan import PlannedRun, Study
from attnconv.study.process import RunProcess
from attnconv.study.statistics import seeds_to_reach

KEPT = ("done", "diverged")
PAUSE = 0.2  # seconds between looks at the processes

Executor = Callable[[StudyFolder, Sequence[PlannedRun], Study], Generator[PlannedRun]]


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
    from rich import progress as bars
    from rich.console import Console

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
        done = len(runs) - len(left)
        console = Console(stderr=True, highlight=False, quiet=not progress)
        columns = bars.TextColumn("{task.description}"), bars.BarColumn(), bars.TimeRemainingColumn()
        live = progress and sys.stderr.isatty()

        def say(text: str) -> None:
            console.print(shown(text), markup=False, soft_wrap=True)

        try:
            with (
                bars.Progress(*columns, console=console, transient=True, disable=not live) as bar,
                contextlib.closing(executor(folder, left, study)) as under_way,
            ):
                task = bar.add_task("runs", total=len(runs), completed=done)
                if left and (note := too_few_seeds(study)):
                    say(note)
                if done:
                    say(f"{done} of {len(runs)} runs need nothing more, {len(left)} are left")
                for number, planned in enumerate(under_way, start=done + 1):
                    say(f"{number}/{len(runs)} {_line(record(folder, planned))}")
                    bar.update(task, completed=number)
                    write_records(folder, study)
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


def on_this_machine(folder: StudyFolder, runs: Sequence[PlannedRun], study: Study) -> Generator[PlannedRun]:
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
            # The next run may begin on free GPUs or, if it takes none, alone.
            while waiting and (need <= len(free) if (need := needs[waiting[0].name]) else not busy):
                planned = waiting.pop(0)
                taken = [free.pop(0) for _ in range(need)]
                process, ahead = ahead or RunProcess(folder, planned, study.threads, gpus=taken), None
                busy[process] = taken
                process.begin()
            if ahead is None and waiting and not needs[waiting[0].name]:
                ahead = RunProcess(folder, waiting[0], study.threads)
            time.sleep(PAUSE)
    finally:
        left = [*busy, *([ahead] if ahead else [])]
        for process in left:
            process.stop()
        for process in left:
            process.wait()


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


def _line(found: Record) -> str:
    """Return what is said of a run that has ended."""
    score, value = ("mean IoU", found["miou"]) if "miou" in found else ("top-1", found["top1"])
    outcome = f"{score} {value:.2f}%, {found['seconds']:.0f} s" if found["state"] == "done" else found["reason"]
    return f"{found['arm']}-seed{found['seed']}: {found['state']}, {outcome}"
