"""What an executor is, and what both ask of a run."""

from collections.abc import Callable, Sequence
from typing import Protocol

from attnconv import checks
from attnconv.study.folder import StudyFolder
from attnconv.study.plan import PlannedRun

Ended = Callable[[PlannedRun], None]
Tick = Callable[[], None]


class Executor(Protocol):
    """Where the runs of a study go."""

    threads: int  # CPU threads of a run, where a study does not say

    def execute(
        self,
        folder: StudyFolder,
        runs: Sequence[PlannedRun],
        *,
        threads: int,
        memory_gb: float | None,
        ended: Ended,
        tick: Tick,
    ) -> None:
        """Do ``runs``, in any order, each in its folder; what they come to stands there.

        Calls ``ended`` for each that has come to an end, and ``tick`` now and then. At Ctrl-C and SIGTERM the runs
        under way are saved, and the exception goes on.

        Raises:
            InputError: before any run is begun, if one needs what is not there.
        """
        ...


def gpus_of(planned: PlannedRun, present: int) -> int:
    """How many of ``present`` GPUs, on one machine, a run takes; InputError if they are too few, or its arithmetic has
    to have one."""
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
