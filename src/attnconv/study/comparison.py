"""From the records of a study's runs to the comparison of its arms: one row an arm.

An arm none of whose runs is done is shown and not compared; arm.py says how each state enters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from attnconv import checks
from attnconv.study import budgets, statistics
from attnconv.study.arm import STATES, Arm, Record, arms_of, validated
from attnconv.study.statistics import Difference, Estimate, Permutation, Scores
from attnconv.study.switched_off import SwitchedOff, switched_off


@dataclass(frozen=True)
class Reading:
    """One way to read an arm's score; ``epochs`` where it is not that of the whole run. Or why it cannot be read."""

    estimate: Estimate | None = None
    difference: Difference | None = None  # to the baseline
    epochs: int | None = None
    why_not: str = ""


@dataclass(frozen=True)
class Tested:
    """The test of the last epoch's difference; p and holm_p None with the reason in ``why_not``."""

    permutation: Permutation | None = None
    holm_p: float | None = None  # adjusted for all tests of the table
    runs_to_see: int | None = None
    why_not: str = ""


@dataclass(frozen=True)
class Row:
    """An arm."""

    arm: str
    counts: Mapping[str, int]  # of runs by state
    params: int | None
    flops: int | None  # of one image's forward, 2 a multiplication and addition
    epochs: int | None
    seconds: float | None  # training, by the arm's clock
    last: Reading
    best: Reading
    equal_time: Reading
    equal_flops: Reading
    without_diverged: Reading | None  # where runs of the arm or of the baseline diverged
    test: Tested
    off: SwitchedOff | None  # None where no run has measured it, as of plain networks


@dataclass(frozen=True)
class Comparison:
    """``time`` and ``flops``: the budget of the equal-time and equal-FLOPs readings, and the arm that sets it."""

    score: str
    baseline: str
    rows: tuple[Row, ...]
    time: tuple[str, float] | None
    flops: tuple[str, float] | None
    records: tuple[Record, ...]


def compare(records: Sequence[Record], *, baseline: str, chance: float, score: str = "top-1") -> Comparison:
    """The arms in the order of ``records``, the baseline first.

    Args:
        chance: the score of a network that has learned nothing, in percent: 100 / classes for top-1.
        score: the score's name.
    Raises:
        InputError: no records, an unknown baseline or state, or two records of one run.
    """
    arms = arms_of(records)
    checks.one_of("baseline", baseline, arms)
    names = [baseline, *(arm for arm in arms if arm != baseline)]
    read = {name: Arm(arms[name], checks.number("chance", chance)) for name in names}
    finished = {name: arm for name, arm in read.items() if arm.done}
    times = {name: budgets.time_clock(arm.done) for name, arm in finished.items()}
    flops = {name: budgets.flops_clock(arm.done) for name, arm in finished.items()}
    time_budget, flops_budget = budgets.cheapest(times), budgets.cheapest(flops)
    equal_time = _within(finished, times, time_budget, baseline, "an arm's training seconds are not known")
    equal_flops = _within(finished, flops, flops_budget, baseline, "an arm's FLOPs or images are not known")
    rows = [
        _row(
            name,
            arm,
            read[baseline],
            is_baseline=name == baseline,
            equal=(equal_time, equal_flops),
            clock=times.get(name),
        )
        for name, arm in read.items()
    ]
    return Comparison(score, baseline, tuple(_adjusted(rows)), time_budget, flops_budget, tuple(records))


def _reading(scores: Scores, baseline: Scores | None, epochs: int | None = None) -> Reading:
    """``baseline`` None: nothing to compare with."""
    if not scores:
        return Reading(why_not="no run has a score")
    difference = statistics.difference(scores, baseline) if baseline else None
    return Reading(statistics.estimate(list(scores.values())), difference, epochs)


def _within(
    arms: Mapping[str, Arm],
    clocks: Mapping[str, budgets.Clock | None],
    budget: tuple[str, float] | None,
    baseline: str,
    unknown: str,
) -> dict[str, Reading]:
    """Each arm's reading within the budget; ``arms`` have a run that is done, and clocks if there is a budget."""
    if budget is None:
        return dict.fromkeys(arms, Reading(why_not=unknown))
    epochs = {name: budgets.epochs_within(clocks[name] or (), budget[1]) for name in arms}
    scores = {
        name: {r["seed"]: arm.at(r, epochs[name]) for r in (*arm.done, *arm.diverged)} if epochs[name] else {}
        for name, arm in arms.items()
    }
    return {
        name: _reading(scores[name], scores.get(baseline) if name != baseline else None, epochs[name])
        if epochs[name]
        else Reading(epochs=0, why_not="no epoch ends within the budget")
        for name in arms
    }


def _row(
    name: str,
    arm: Arm,
    base: Arm,
    *,
    is_baseline: bool,
    equal: Sequence[Mapping[str, Reading]],
    clock: budgets.Clock | None,
) -> Row:
    why_not = _why_not_compared(arm, base, is_baseline)
    other = None if why_not else base
    lone = Reading(why_not=_why_no_score(arm))
    without = None
    if arm.diverged or (base.diverged and not why_not):
        without = _reading(arm.finished, other and other.finished) if arm.finished else lone
    return Row(
        arm=name,
        counts={state: sum(r["state"] == state for r in arm.records) for state in STATES},
        params=arm.known("params"),
        flops=arm.known("flops"),
        epochs=max((len(validated(r)) for r in arm.done), default=None),
        seconds=clock[-1] if clock else None,
        last=_reading(arm.last, other and other.last),
        best=_reading(arm.best, other and other.best),
        equal_time=equal[0].get(name, lone),
        equal_flops=equal[1].get(name, lone),
        without_diverged=without,
        test=_test(arm.last, base.last, why_not),
        off=switched_off(arm.done),
    )


def _why_no_score(arm: Arm) -> str:
    if arm.diverged and not arm.done:
        others = len(arm.records) - len(arm.diverged)
        if others:
            return f"{len(arm.diverged)} of {len(arm.records)} runs diverged, and none is done"
        return f"all {len(arm.diverged)} runs diverged" if len(arm.diverged) > 1 else "its one run diverged"
    return "" if arm.done else "no run is done"


def _why_not_compared(arm: Arm, base: Arm, is_baseline: bool) -> str:
    if is_baseline:
        return "the baseline"
    without_base = _why_no_score(base)
    return _why_no_score(arm) or (without_base and f"of the baseline, {without_base}")


def _test(scores: Scores, baseline: Scores, why_not: str) -> Tested:
    if why_not:
        return Tested(why_not=why_not)
    permutation = statistics.permutation(scores, baseline)
    return Tested(permutation) if permutation else Tested(why_not="fewer than two seeds")


def _adjusted(rows: Sequence[Row]) -> list[Row]:
    """Holm over all tests that could be made, and the runs that so many tests ask for."""
    tested = [row.test.permutation.p for row in rows if row.test.permutation]
    adjusted = iter(statistics.holm(tested))
    found = []
    for row in rows:
        if row.test.permutation and row.last.difference:
            needed = statistics.runs_to_see(row.last.difference, len(tested))
            row = replace(row, test=replace(row.test, holm_p=next(adjusted), runs_to_see=needed))
        found.append(row)
    return found
