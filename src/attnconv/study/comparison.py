"""From the records of a study's runs to the comparison of its arms: one row an arm, one comparison a block.

How a run's state counts. done: the score of its last epoch. diverged: the score that it ended with, the last finite one
of its validations, or ``chance`` if it never finished an epoch; leaving it out would reward an arm for diverging.
failed, running, missing: no score. An arm without a run that is done is shown and not compared.

Arms are also compared at equal time and at equal FLOPs. A clock is the cost of an arm at the end of each epoch. In time
it is the sum of training seconds, each epoch's being the median over the arm's runs, so that one disturbed run moves
nothing; validation and start-up are left out. In FLOPs it is epochs x training images x 3 x the FLOPs of one image's
forward, since backward counts as two forwards. The budget is the smallest total of any arm with a run that is done, and
an arm's score is that of the last epoch that ends within it, without interpolation.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import median
from typing import Any

from attnconv import checks
from attnconv.inactive import is_inactive
from attnconv.study import statistics
from attnconv.study.folder import MEASURED, STATES, Record, scored
from attnconv.study.plan import SCORES, Study
from attnconv.study.statistics import Estimate, Permutation, Scores, holm

Clock = Sequence[float]  # one number an epoch


@dataclass(frozen=True)
class Reading:
    """An arm's score and its difference from the baseline, after ``epochs`` if not at the end; or why there is none."""

    estimate: Estimate | None = None
    difference: Estimate | None = None
    epochs: int | None = None
    why_not: str = ""


@dataclass(frozen=True)
class Tested:
    """The test of the last epoch's difference; p and holm_p None with the reason in ``why_not``."""

    permutation: Permutation | None = None
    holm_p: float | None = None  # adjusted for all tests of the study
    runs_to_see: int | None = None
    why_not: str = ""


@dataclass(frozen=True)
class SwitchedOff:
    """Scores of the same networks with attention (``on``) and without (``off``), over the runs that measured it.

    ``logits_moved`` (relative to their norm) and ``predictions_changed`` (percent) are the largest of any run.
    ``inactive`` counts runs by the rule of `attnconv.inactive`.
    """

    on: Estimate
    off: Estimate
    logits_moved: float
    predictions_changed: float
    inactive: int

    @property
    def verdict(self) -> str:
        """Return "inactive in 3 of 5 runs", of those that measured it, or "active"."""
        return f"inactive in {self.inactive} of {self.off.n} runs" if self.inactive else "active"


@dataclass(frozen=True)
class Row:
    """An arm."""

    arm: str
    counts: Mapping[str, int]  # of runs by state
    params: int | None
    flops: int | None  # of one image's forward, 2 a multiplication and addition
    epochs: int | None
    steps: int | None  # of a run
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
    """The arms of a block, the baseline first; ``time`` and ``flops``: the equal budgets and the arms that set them."""

    score: str
    baseline: str
    rows: tuple[Row, ...]
    time: tuple[str, float] | None
    flops: tuple[str, float] | None
    records: tuple[Record, ...]
    arms: Mapping[str, "Arm"]


class Arm:
    """The records of one arm, and the scores by seed."""

    def __init__(self, records: Sequence[Record], chance: float) -> None:
        self.records = records
        self.chance = chance
        self.done = [r for r in records if r["state"] == "done"]
        self.diverged = [r for r in records if r["state"] == "diverged"]
        self.finished = {r["seed"]: r["score"] for r in self.done}
        self.last = {**self.finished, **self.after(None, self.diverged)}
        self.best = {r["seed"]: r["best_score"] for r in self.done}
        self.best |= {r["seed"]: max(validated(r).values(), default=chance) for r in self.diverged}
        self.time, self.flops = time_clock(self.done), flops_clock(self.done)
        self.why_no_score = "" if self.done else "no run is done"
        if self.diverged and not self.done:
            self.why_no_score += f", and {len(self.diverged)} of {len(records)} diverged"

    def at(self, record: Record, epochs: int | None) -> float:
        """Return a run's validation score after so many epochs, or its last; a run that has none has ``chance``."""
        within = [epoch for epoch in validated(record) if epochs is None or epoch <= epochs]
        return validated(record)[max(within)] if within else self.chance

    def after(self, epochs: int | None, records: Sequence[Record]) -> dict[int, float]:
        """Return the scores of ``records`` after so many epochs; a diverged run keeps the score that it ended with."""
        return {record["seed"]: self.at(record, epochs) for record in records}

    def known(self, key: str) -> Any:
        """Return the value of the first run that knows it; runs of an arm have one network."""
        return next((r[key] for r in self.records if r.get(key) is not None), None)


def validated(record: Record) -> dict[int, float]:
    """Return the finite validation scores of a run by epoch."""
    rows = record.get("history") or ()
    return {int(row["epoch"]): row["val_score"] for row in rows if math.isfinite(row["val_score"])}


def comparisons(study: Study, records: Sequence[Record]) -> dict[str, Comparison]:
    """Return block -> the comparison of its arms; "" where arms have no block. p is adjusted for the whole study.

    Raises:
        InputError: a record of an arm or a seed that is not in the study, or a damaged one.
    """
    checked = [scored(study, record) for record in records]
    found = {}
    for block, arms in study.blocks().items():
        inside = [record for arm in arms for record in checked if record["arm"] == arm]
        score = SCORES[study.score_of(block)]
        baseline = study.baseline_of(arms[0])
        found[block] = _compared(inside, baseline=baseline, chance=chance_of(inside, score), score=score)
    return _adjusted(found)


def chance_of(records: Sequence[Record], score: str) -> float:
    """Return the score of guessing, in percent, which a run counts with that diverged in its first epoch.

    0 where the records do not say how many classes there are, and for mean IoU, which depends on the classes' areas.
    """
    guesses = {"top-1": 1, "top-5": 5}.get(score, 0)
    classes = next((record["classes"] for record in records if record.get("classes")), None)
    return 100 * min(guesses, classes) / classes if classes else 0.0


def compare(records: Sequence[Record], *, baseline: str, chance: float, score: str = "top-1") -> Comparison:
    """Compare the arms in the order of ``records``, the baseline first.

    Args:
        chance: the score of a network that has learned nothing, in percent: 100 / classes for top-1.
        score: the score's name.
    Raises:
        InputError: no records, an unknown baseline or state, or two records of one run.
    """
    return _adjusted({"": _compared(records, baseline=baseline, chance=chance, score=score)})[""]


def _compared(records: Sequence[Record], *, baseline: str, chance: float, score: str) -> Comparison:
    by_arm: dict[str, list[Record]] = {}
    for record in records:
        checks.one_of("state of a run", record["state"], STATES)
        by_arm.setdefault(record["arm"], []).append(record)
    if not by_arm:
        raise checks.InputError("no records of runs to compare")
    ((name, seed), times), *_ = Counter((record["arm"], record["seed"]) for record in records).most_common(1)
    if times > 1:
        raise checks.InputError(f"{times} records of the run of {name} with seed {seed}; one is the rule")
    checks.one_of("baseline", baseline, by_arm)
    chance = checks.number("chance", chance)
    arms = {name: Arm(by_arm[name], chance) for name in dict.fromkeys((baseline, *by_arm))}
    base = arms[baseline]
    finished = {name: arm for name, arm in arms.items() if arm.done}
    time = cheapest({name: arm.time for name, arm in finished.items()})
    flops = cheapest({name: arm.flops for name, arm in finished.items()})

    def row(name: str, arm: Arm) -> Row:
        why_not = "the baseline" if name == baseline else arm.why_no_score
        if not why_not and base.why_no_score:
            why_not = f"of the baseline, {base.why_no_score}"
        other = None if why_not else base

        def within(budget: tuple[str, float] | None, clock: Callable[[Arm], Clock | None], unknown: str) -> Reading:
            if arm.why_no_score or not budget:
                return Reading(why_not=arm.why_no_score or f"{unknown} not known")
            epochs, of_base = (epochs_within(clock(one) or (), budget[1]) for one in (arm, base))
            if not epochs:
                return Reading(epochs=0, why_not="no epoch ends within the budget")
            at_base = base.after(of_base, (*base.done, *base.diverged)) if other and of_base else None
            return _reading(arm.after(epochs, (*arm.done, *arm.diverged)), at_base, epochs)

        without = None
        if arm.diverged or (other and other.diverged):
            lone = Reading(why_not=arm.why_no_score)
            without = _reading(arm.finished, other and other.finished) if arm.finished else lone
        permutation = statistics.permutation(arm.last, other.last) if other else None
        return Row(
            arm=name,
            counts={state: sum(r["state"] == state for r in arm.records) for state in STATES},
            params=arm.known("params"),
            flops=arm.known("flops"),
            epochs=max((len(validated(r)) for r in arm.done), default=None),
            steps=max((row["step"] for r in arm.done for row in r["history"] if "step" in row), default=None),
            seconds=arm.time[-1] if arm.time else None,
            last=_reading(arm.last, other and other.last),
            best=_reading(arm.best, other and other.best),
            equal_time=within(time, lambda one: one.time, "an arm's training seconds are"),
            equal_flops=within(flops, lambda one: one.flops, "an arm's FLOPs or images are"),
            without_diverged=without,
            test=Tested(permutation, why_not="" if permutation else why_not or "fewer than two shared seeds"),
            off=switched_off(arm.done),
        )

    rows = tuple(row(name, arm) for name, arm in arms.items())
    return Comparison(score, baseline, rows, time, flops, tuple(records), arms)


def _reading(scores: Scores, baseline: Scores | None, epochs: int | None = None) -> Reading:
    """Return the reading of ``scores``; ``baseline`` None: there is nothing to compare with."""
    if not scores:
        return Reading(why_not="no run has a score")
    difference = statistics.difference(scores, baseline) if baseline else None
    shared = difference if difference and difference.n else None
    return Reading(statistics.estimate(list(scores.values())), shared, epochs)


def _adjusted(compared: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """Return the comparisons with Holm's p over all tests, and the runs that so many tests ask for."""
    tested = [row.test.permutation.p for one in compared.values() for row in one.rows if row.test.permutation]
    adjusted = iter(holm(tested))

    def done(row: Row) -> Row:
        if not row.test.permutation or not row.last.difference:
            return row
        needed = statistics.runs_to_see(row.last.difference, len(tested))
        return replace(row, test=replace(row.test, holm_p=next(adjusted), runs_to_see=needed))

    return {block: replace(one, rows=tuple(map(done, one.rows))) for block, one in compared.items()}


def switched_off(done: Sequence[Record]) -> SwitchedOff | None:
    """Return the summary of an arm's finished runs; None if none of them measured it, as of plain networks."""
    known = [record for record in done if "off_score" in record]
    if not known:
        return None
    moved, changed = ([record["attention_off"][name] for record in known] for name in MEASURED)
    return SwitchedOff(
        on=statistics.estimate([record["on_score"] for record in known]),
        off=statistics.estimate([record["off_score"] for record in known]),
        logits_moved=max(moved),
        predictions_changed=max(changed),
        inactive=sum(map(is_inactive, moved, changed)),
    )


def time_clock(runs: Sequence[Record]) -> Clock | None:
    """Return the training seconds at the end of each epoch; None if no run has noted any."""
    spent: dict[int, list[float]] = {}
    for run in runs:
        for row in run["history"]:
            spent.setdefault(int(row["epoch"]), []).append(float(row["seconds"]))
    return list(accumulate(median(spent[epoch]) for epoch in sorted(spent))) or None


def flops_clock(runs: Sequence[Record]) -> Clock | None:
    """Return the training FLOPs at the end of each epoch; None if a run does not know its FLOPs or its images."""
    if not runs or not all(run.get("flops") and run.get("images") for run in runs):
        return None
    an_epoch = median(3 * run["flops"] * run["images"] for run in runs)
    epochs = max(len(run["history"]) for run in runs)
    return list(accumulate([float(an_epoch)] * epochs)) or None


def cheapest(clocks: Mapping[str, Clock | None]) -> tuple[str, float] | None:
    """Return the arm whose clock ends first, and where; None unless every arm has a clock."""
    ends = {arm: clock[-1] for arm, clock in clocks.items() if clock}
    if not ends or len(ends) < len(clocks):
        return None
    return min(ends.items(), key=lambda end: end[1])


def epochs_within(clock: Clock, budget: float) -> int:
    """Return how many epochs end within ``budget``; the rounding of a sum does not cost one."""
    return sum(spent <= budget * (1 + 1e-9) for spent in clock)
