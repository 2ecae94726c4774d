"""The missing runs of a study, done on this machine; `attnconv.study.ray` does them on others.

An executor does runs in any order, each in its folder, and yields those that have ended. When it is closed, as at
Ctrl-C and SIGTERM, it saves the runs under way. It raises InputError before any run begins if one needs a GPU or memory
that is not there.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
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
    folder: StudyFolder | Path | str,
    executor: Executor | None = None,
    *,
    extend: bool = False,
    mix_versions: bool = False,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Do the runs of ``study`` that are missing in ``folder``; return the records of all runs.

    Finished and diverged runs stay as they are, interrupted ones go on from their checkpoints, failed ones are tried
    again. Ctrl-C and SIGTERM save the runs under way and are raised.

    Args:
        executor: where runs take place: this machine if not given, or the value of `ray_cluster`.
        extend: accept arms and seeds that the study in the folder does not have.
        mix_versions: go on although runs of the folder were made by another version.
        progress: show a bar and a line for each run on stderr.
    Raises:
        InputError: before anything runs: a model or data that do not exist, a folder of another plan, of another
            version or without its runs, or one in which another process is at work.
    """
    import torch  # here: the start of a run on another machine does not need it
    from rich import progress as bars
    from rich.console import Console

    study.require_runnable()
    folder = folder if isinstance(folder, StudyFolder) else StudyFolder(Path(folder))
    folder.make()
    if is_archive(folder):
        raise checks.InputError(
            f"{folder.path} holds the records of runs and not the runs, so that only `study report` can use it: give "
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
                contextlib.closing((executor or on_this_machine)(folder, left, study)) as under_way,
            ):
                task = bar.add_task("runs", total=len(runs), completed=done)
                if left and (note := too_few_seeds(study)):
                    say(note)
                say(f"{folder.path}: {len(runs)} runs, {done} done, {len(left)} left")
                for number, planned in enumerate(under_way, start=done + 1):
                    say(f"{number}/{len(runs)} {_line(record(folder, planned))}")
                    bar.update(task, completed=number)
                    write_records(folder, study)
        except KeyboardInterrupt:
            say("stopped; finished runs and checkpoints are kept: run the same command to continue")
            raise
        finally:
            found = write_records(folder, study)
    return found


def too_few_seeds(study: Study) -> str:
    """Return a note if the study has too few seeds for its own test, else ""."""
    comparisons = len(study.arms) - len(study.blocks())
    if not comparisons or len(study.seeds) >= (enough := seeds_to_reach(comparisons)):
        return ""
    few = f"{len(study.seeds)} seed{'s' * (len(study.seeds) > 1)}"
    return f"note: {few} cannot show any difference at 5 %, however large; --seeds {enough} can"


def on_this_machine(folder: StudyFolder, runs: Sequence[PlannedRun], study: Study) -> Generator[PlannedRun]:
    """Do one run at a time with all CPU threads, or one a GPU; meanwhile the next run loads its libraries."""
    free = _visible_gpus()
    needs = {planned.name: gpus_of(planned, len(free)) for planned in runs}
    waiting, busy = list(runs), dict[RunProcess, list[str]]()
    ahead: RunProcess | None = None  # of the next run: loading its libraries
    try:
        while waiting or busy:
            for process in [process for process in busy if process.ended()]:
                free += busy.pop(process)
                yield process.planned
            # The next run begins on free GPUs or, if it needs none, alone.
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
    """Return the number of ``present`` GPUs of one machine that a run takes.

    Raises:
        InputError: there are too few, or none for a precision that needs one.
    """
    config = planned.config
    if config.device not in ("auto", "cuda") or (config.device == "auto" and not present):
        if config.precision in ("tf32", "fp16"):
            raise checks.InputError(
                f"arm {planned.arm!r} has precision {config.precision!r}, which needs a GPU, and there is none"
            )
        return 0
    count = present if config.devices == "auto" else config.devices or 1
    if not 1 <= count <= present:
        raise checks.InputError(
            f"arm {planned.arm!r} needs {max(count, 1)} GPUs, and no machine here has more than {present}"
        )
    return count


def _line(found: Record) -> str:
    """Return the line about a run that has ended."""
    score, value = ("mean IoU", found["miou"]) if "miou" in found else ("top-1", found["top1"])
    outcome = f"{score} {value:.2f}%, {found['seconds']:.0f} s" if found["state"] == "done" else found["reason"]
    return f"{found['arm']}-seed{found['seed']}: {found['state']}, {outcome}"
