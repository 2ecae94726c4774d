"""What each arm had reached when the cheapest arm was done: equal training time, equal training FLOPs.

A clock is what an arm has spent at the end of each epoch. For time it is the sum of training seconds, of each epoch
the median over the arm's runs, so that one disturbed run moves nothing; validation and start-up are left out. For
FLOPs it is epochs x training images x 3 x the FLOPs of one image's forward, backward counting as two forwards.
The budget is the smallest total of any arm with a run that is done, and an arm's score is that of the last epoch
that ends within it: nothing is interpolated.
"""

import statistics
from collections.abc import Mapping, Sequence

from attnconv.study.arm import Record

Clock = Sequence[float]  # one number an epoch


def time_clock(runs: Sequence[Record]) -> Clock | None:
    """Training seconds at the end of each epoch; None if no run has noted any."""
    spent: dict[int, list[float]] = {}
    for run in runs:
        for row in run.get("history") or ():
            spent.setdefault(int(row["epoch"]), []).append(float(row["seconds"]))
    return _summed([statistics.median(spent[epoch]) for epoch in sorted(spent)])


def flops_clock(runs: Sequence[Record]) -> Clock | None:
    """Training FLOPs at the end of each epoch; None if a run does not know its FLOPs or its images."""
    if not runs or not all(run.get("flops") and run.get("images") for run in runs):
        return None
    an_epoch = statistics.median(3 * run["flops"] * run["images"] for run in runs)
    epochs = max((len(run.get("history") or ()) for run in runs), default=0)
    return _summed([an_epoch] * epochs)


def cheapest(clocks: Mapping[str, Clock | None]) -> tuple[str, float] | None:
    """The arm whose clock ends first, and where; None unless every arm has a clock."""
    ends = {arm: clock[-1] for arm, clock in clocks.items() if clock}
    if not ends or len(ends) < len(clocks):
        return None
    arm = min(ends, key=lambda name: ends[name])
    return arm, ends[arm]


def epochs_within(clock: Clock, budget: float) -> int:
    """How many epochs end within ``budget``; the rounding of a sum does not cost one."""
    return sum(spent <= budget * (1 + 1e-9) for spent in clock)


def _summed(steps: Sequence[float]) -> Clock | None:
    total, clock = 0.0, []
    for step in steps:
        total += step
        clock.append(total)
    return clock or None
