"""This machine: one run at a time with all CPU threads, while the next one loads its libraries; or one a GPU."""

import os
import time
from collections.abc import Sequence

import torch

from attnconv.study.attempt import Attempt
from attnconv.study.executor import Ended, Tick, gpus_of
from attnconv.study.folder import StudyFolder
from attnconv.study.plan import PlannedRun

PAUSE = 0.2  # seconds between looks at the processes


class Local:
    """The executor of one machine."""

    def __init__(self) -> None:
        self.gpus = _visible_gpus()
        self.threads = max(1, torch.get_num_threads() // max(1, len(self.gpus)))

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
        """As `Executor`; memory is not reserved here."""
        needs = {planned.name: gpus_of(planned, len(self.gpus)) for planned in runs}
        waiting, free = list(runs), list(self.gpus)
        busy: list[tuple[Attempt, list[str]]] = []
        ahead: Attempt | None = None  # of the next run, if it takes no GPU: loading its libraries
        try:
            while waiting or busy:
                for attempt, taken in [pair for pair in busy if pair[0].ended()]:
                    busy.remove((attempt, taken))
                    free += taken
                    ended(attempt.planned)
                while waiting and _fits(needs[waiting[0].name], len(free), len(busy)):
                    planned = waiting.pop(0)
                    if ahead is not None and ahead.planned is planned:
                        ahead.begin()
                        busy.append((ahead, []))
                        ahead = None
                        continue
                    taken = [free.pop(0) for _ in range(needs[planned.name])]
                    environment = {"CUDA_VISIBLE_DEVICES": ",".join(taken)} if taken else {}
                    busy.append((Attempt(folder, planned, threads=threads, environment=environment), taken))
                if ahead is None and waiting and not needs[waiting[0].name]:
                    ahead = Attempt(folder, waiting[0], threads=threads, begin=False)
                tick()
                time.sleep(PAUSE)
        finally:
            left = [attempt for attempt, _ in busy] + ([ahead] if ahead is not None else [])
            for attempt in left:
                attempt.stop()
            for attempt in left:
                attempt.wait()


def _fits(need: int, free: int, busy: int) -> bool:
    """Whether the next run may begin: on free GPUs, or, if it takes none, alone."""
    return need <= free if need else not busy


def _visible_gpus() -> list[str]:
    """The GPUs of this process, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(i) for i in range(count)]
