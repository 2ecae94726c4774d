"""Running a study: what is missing of it, in its folder, on an executor."""

from typing import Any

from attnconv import checks
from attnconv.files import locked
from attnconv.signals import termination_raised
from attnconv.study.executor import Executor
from attnconv.study.folder import StudyFolder
from attnconv.study.plan import PlannedRun, Study
from attnconv.study.progress import StudyProgress
from attnconv.study.records import is_archive, record, write_records
from attnconv.study.statistics import seeds_to_reach

KEPT = ("done", "diverged")


def run_study(
    study: Study,
    folder: StudyFolder,
    executor: Executor,
    *,
    extend: bool = False,
    mix_versions: bool = False,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Do the runs of ``study`` that are not done; the records of all.

    Runs that are done are kept, and so are diverged ones; interrupted ones go on from their checkpoints; failed ones
    are tried again. Ctrl-C and SIGTERM save the runs under way and are raised.

    Raises:
        InputError: as `Study.require_runnable`, `StudyFolder.prepare` and the executor, before anything runs; the
            folder holds records without their runs; another process is at work in it.
    """
    study.require_runnable()
    folder.make()
    if is_archive(folder):
        raise checks.InputError(
            f"{folder.path} holds the records of runs and not the runs, so it is for `study report` alone: give "
            "another --out"
        )
    with locked(folder.path), termination_raised():
        study = folder.prepare(study, threads=executor.threads, extend=extend, mix_versions=mix_versions)
        assert study.threads is not None
        runs = study.runs()
        left = [planned for planned in runs if record(folder, planned)["state"] not in KEPT]
        try:
            with StudyProgress(
                folder, runs, left, note=too_few_seeds(study) if left else "", shown=progress
            ) as display:

                def ended(planned: PlannedRun) -> None:
                    display.ended(record(folder, planned))
                    write_records(folder, study)

                executor.execute(
                    folder, left, threads=study.threads, memory_gb=study.memory_gb, ended=ended, tick=display.tick
                )
        finally:
            found = write_records(folder, study)
    return found


def too_few_seeds(study: Study) -> str:
    """What to say, before the hours are spent, of a study whose test can find nothing; "" of others."""
    comparisons = max(map(len, study.blocks().values())) - 1
    if not comparisons or len(study.seeds) >= (enough := seeds_to_reach(comparisons)):
        return ""
    few = f"{len(study.seeds)} seed{'s' * (len(study.seeds) > 1)}"
    return f"note: with {few} no difference can come out below p = 0.05, however large; --seeds {enough} is enough"
