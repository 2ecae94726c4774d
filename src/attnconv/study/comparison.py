"""From the records of a study's runs to the comparison of its arms: one row an arm, one comparison a block.

How each state enters. done: its last epoch's score. diverged: the score it ended with, that is the last finite one of
its validations, or ``chance`` if it never finished an epoch; leaving it out would make an arm better for diverging.
failed, running, missing: they have no score. An arm none of whose runs is done is shown and not compared.

Arms are also compared at equal time and at equal FLOPs. A clock is what an arm has spent at the end of each epoch. For
time it is the sum of training seconds, of each epoch the median over the arm's runs, so that one disturbed run moves
nothing; validation and start-up are left out. For FLOPs it is epochs x training images x 3 x the FLOPs of one image's
forward, backward counting as two forwards.
The budget is the smallest total of any arm with a run that is done, and an arm's score is that of the last epoch that
ends within it: nothing is interpolated.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import median
from typing import Any

from attnconv import checks
from attnconv.inactive import is_inactive
from attnconv.study import statistics
from attnconv.study.folder import MEASURED, STATES, Record, scored
from attnconv.study.plan import SCORES, Study
from attnconv.study.statistics import Difference, Estimate, Permutation, Scores, holm

Clock = Sequence[float]  # one number an epoch


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
class SwitchedOff:
    """Scores of the finished runs of an arm that measured it.

    ``on`` and ``off`` are the scores of the same networks, with and without attention. ``logits_moved`` (of their norm)
    and ``predictions_changed`` (percent) are the largest of any run. ``inactive`` counts runs by the rule of
    `attnconv.inactive`.
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
    seconds: float | None  # training, by the arm's clock
    last: Reading
    best: Reading
    equal_time: Reading
    equal_flops: Reading
    without_diverged: Reading | None  # where runs of the arm or of the baseline diverged
    test: Tested
    off: SwitchedOff | None  # None where no run has measured it, as of plain networks
    steps: int | None = None  # of a run


@dataclass(frozen=True)
class Comparison:
    """``time`` and ``flops``: the budget of the equal-time and equal-FLOPs readings, and the arm that sets it."""

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
        self.finished = {r["seed"]: self.at(r, None) for r in self.done}
        self.last = {**self.finished, **{r["seed"]: self.at(r, None) for r in self.diverged}}
        self.best = {r["seed"]: self._best(r) for r in (*self.done, *self.diverged)}

    def at(self, record: Record, epochs: int | None) -> float:
        """Return a run's score after so many epochs, or at its end; a diverged run keeps that with which it ended."""
        if epochs is None and record["state"] == "done":
            return record["score"]
        scores = validated(record)
        within = [epoch for epoch in scores if epochs is None or epoch <= epochs]
        return scores[max(within)] if within else self.chance

    def _best(self, record: Record) -> float:
        if record["state"] == "done":
            return record["best_score"]
        return max(validated(record).values(), default=self.chance)

    def known(self, key: str) -> Any:
        """Return what the first run that knows it says; runs of an arm have one network."""
        return next((r[key] for r in self.records if r.get(key) is not None), None)

    def why_no_score(self) -> str:
        """Return why the arm cannot be compared, "" if it can."""
        if self.done or not self.diverged:
            return "" if self.done else "no run is done"
        return f"no run is done, and {len(self.diverged)} of {len(self.records)} diverged"


def validated(record: Record) -> dict[int, float]:
    """Return the finite validation scores of a run by epoch."""
    rows = record.get("history") or ()
    return {int(row["epoch"]): row["val_score"] for row in rows if math.isfinite(row["val_score"])}


def comparisons(study: Study, records: Sequence[Record]) -> dict[str, Comparison]:
    """Return block -> the comparison of its arms, under their names without the block; "" where arms have no block.

    Raises:
        InputError: a record of an arm or a seed that the study has not, or one that is damaged.
    """
    checked = [scored(study, record) for record in records]
    found = {}
    for block, arms in study.blocks().items():
        inside = [
            {**record, "arm": arm.rpartition("/")[2]} for arm in arms for record in checked if record["arm"] == arm
        ]
        score = SCORES[study.score_of(block)]
        found[block] = compare(inside, baseline=study.baseline, chance=chance_of(inside, score), score=score)
    return found


def chance_of(records: Sequence[Record], score: str) -> float:
    """Return the score of guessing one of the classes: what a run counts with that diverged in its first epoch.

    In percent. 0 where the records do not say how many classes there are, and for mean IoU, which depends on the
    classes' areas as well.
    """
    guesses = {"top-1": 1, "top-5": 5}.get(score, 0)
    classes = next((record["classes"] for record in records if record.get("classes")), None)
    return 100 * min(guesses, classes) / classes if classes else 0.0


def holm_over_all(compared: Mapping[str, Comparison]) -> dict[tuple[str, str], float]:
    """Return (block, arm) -> p after Holm over all tests of the study; a comparison's own is over the block's."""
    tests = {
        (block, row.arm): row.test.permutation.p
        for block, comparison in compared.items()
        for row in comparison.rows
        if row.test.permutation
    }
    return dict(zip(tests, holm(list(tests.values())), strict=True))


def compare(records: Sequence[Record], *, baseline: str, chance: float, score: str = "top-1") -> Comparison:
    """Compare the arms in the order of ``records``, the baseline first.

    Args:
        chance: the score of a network that has learned nothing, in percent: 100 / classes for top-1.
        score: the score's name.
    Raises:
        InputError: no records, an unknown baseline or state, or two records of one run.
    """
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
    finished = {name: arm for name, arm in arms.items() if arm.done}
    times_spent = {name: time_clock(arm.done) for name, arm in finished.items()}
    flops_spent = {name: flops_clock(arm.done) for name, arm in finished.items()}
    time, flops = cheapest(times_spent), cheapest(flops_spent)
    equal_time = _within(finished, times_spent, time, baseline, "an arm's training seconds are not known")
    equal_flops = _within(finished, flops_spent, flops, baseline, "an arm's FLOPs or images are not known")
    rows = []
    for name, arm in arms.items():
        base = arms[baseline]
        why_not = "the baseline" if name == baseline else arm.why_no_score()
        if not why_not and (without_base := base.why_no_score()):
            why_not = f"of the baseline, {without_base}"
        other = None if why_not else base
        lone = Reading(why_not=arm.why_no_score())
        without = None
        if arm.diverged or (other and other.diverged):
            without = _reading(arm.finished, other and other.finished) if arm.finished else lone
        permutation = statistics.permutation(arm.last, other.last) if other else None
        clock = times_spent.get(name)
        rows.append(
            Row(
                arm=name,
                counts={state: sum(r["state"] == state for r in arm.records) for state in STATES},
                params=arm.known("params"),
                flops=arm.known("flops"),
                epochs=max((len(validated(r)) for r in arm.done), default=None),
                seconds=clock[-1] if clock else None,
                last=_reading(arm.last, other and other.last),
                best=_reading(arm.best, other and other.best),
                equal_time=equal_time.get(name, lone),
                equal_flops=equal_flops.get(name, lone),
                without_diverged=without,
                test=Tested(permutation, why_not="" if permutation else why_not or "fewer than two seeds"),
                off=switched_off(arm.done),
                steps=max(
                    (row["step"] for r in arm.done for row in r.get("history") or () if "step" in row), default=None
                ),
            )
        )
    return Comparison(score, baseline, tuple(_adjusted(rows)), time, flops, tuple(records), arms)


def _reading(scores: Scores, baseline: Scores | None, epochs: int | None = None) -> Reading:
    """Return the reading of ``scores``; ``baseline`` None: there is nothing to compare with."""
    if not scores:
        return Reading(why_not="no run has a score")
    difference = statistics.difference(scores, baseline) if baseline else None
    return Reading(statistics.estimate(list(scores.values())), difference, epochs)


def _within(
    arms: Mapping[str, Arm],
    clocks: Mapping[str, Clock | None],
    budget: tuple[str, float] | None,
    baseline: str,
    unknown: str,
) -> dict[str, Reading]:
    """Return each arm's reading within the budget; ``arms`` have a run that is done, and clocks if there is one."""
    if budget is None:
        return dict.fromkeys(arms, Reading(why_not=unknown))
    found: dict[str, Reading] = {}
    base: Scores | None = None  # of the baseline, which comes first
    for name, arm in arms.items():
        epochs = epochs_within(clocks[name] or (), budget[1])
        if not epochs:
            found[name] = Reading(epochs=0, why_not="no epoch ends within the budget")
            continue
        scores = {r["seed"]: arm.at(r, epochs) for r in (*arm.done, *arm.diverged)}
        found[name] = _reading(scores, base, epochs)
        if name == baseline:
            base = scores
    return found


def _adjusted(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with Holm's p over all tests that could be made, and the runs that so many tests ask for."""
    tested = [row.test.permutation.p for row in rows if row.test.permutation]
    adjusted = iter(holm(tested))
    found = []
    for row in rows:
        if row.test.permutation and row.last.difference:
            needed = statistics.runs_to_see(row.last.difference, len(tested))
            row = replace(row, test=replace(row.test, holm_p=next(adjusted), runs_to_see=needed))
        found.append(row)
    return found


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
        for row in run.get("history") or ():
            spent.setdefault(int(row["epoch"]), []).append(float(row["seconds"]))
    return list(accumulate(median(spent[epoch]) for epoch in sorted(spent))) or None


def flops_clock(runs: Sequence[Record]) -> Clock | None:
    """Return the training FLOPs at the end of each epoch; None if a run does not know its FLOPs or its images."""
    if not runs or not all(run.get("flops") and run.get("images") for run in runs):
        return None
    an_epoch = median(3 * run["flops"] * run["images"] for run in runs)
    epochs = max((len(run.get("history") or ()) for run in runs), default=0)
    return list(accumulate([float(an_epoch)] * epochs)) or None


def cheapest(clocks: Mapping[str, Clock | None]) -> tuple[str, float] | None:
    """Return the arm whose clock ends first, and where; None unless every arm has a clock."""
    ends = {arm: clock[-1] for arm, clock in clocks.items() if clock}
    if not ends or len(ends) < len(clocks):
        return None
    arm = min(ends, key=lambda name: ends[name])
    return arm, ends[arm]


def epochs_within(clock: Clock, budget: float) -> int:
    """Return how many epochs end within ``budget``; the rounding of a sum does not cost one."""
    return sum(spent <= budget * (1 + 1e-9) for spent in clock)
