"""Means, differences and tests of few runs an arm. Pure numbers: knows neither files nor networks.

Scores come as {seed: score}. Two arms are paired by seed where at least two seeds (or the only one of an arm), and at
least half of those of the smaller arm, are shared: then all is computed from the differences of those pairs. Otherwise
they are two independent samples with a variance each. The choice looks at seeds, never at scores. docs/statistics.md
gives the reasons.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from attnconv.study.intervals import Interval, difference_interval, mean_interval
from attnconv.study.power import ALPHA, runs_needed

Scores = Mapping[int, float]  # by seed

PERMUTATIONS = 99_999  # all of them are counted up to so many (16 pairs, 9 against 9), beyond it so many are drawn


@dataclass(frozen=True)
class Estimate:
    """A mean of ``n`` scores; the mean is None of none, the standard deviation (n - 1) of fewer than two."""

    mean: float | None
    sd: float | None
    n: int
    interval: Interval


@dataclass(frozen=True)
class Difference:
    """Arm less baseline. ``n``: pairs, or runs of the arm and of the baseline; ``sds`` likewise, () if unknown."""

    value: float
    paired: bool
    n: tuple[int, ...]
    sds: tuple[float, ...]
    interval: Interval


@dataclass(frozen=True)
class Permutation:
    """A two-sided permutation test, and the smallest p that any scores of so many runs could give."""

    p: float
    smallest_p: float
    exact: bool


def estimate(scores: Sequence[float] | np.ndarray) -> Estimate:
    values = np.asarray(scores, dtype=float)
    n = len(values)
    mean = float(values.mean()) if n else None
    sd = float(values.std(ddof=1)) if n > 1 else None
    return Estimate(mean, sd, n, mean_interval(values))


def shared_seeds(arm: Scores, baseline: Scores) -> list[int]:
    """The seeds to pair by; none if the arms are to be compared unpaired."""
    shared = sorted(set(arm) & set(baseline))
    smaller = min(len(arm), len(baseline))
    few = len(shared) < 2 and smaller > 1
    return [] if few or 2 * len(shared) < smaller else shared


def difference(arm: Scores, baseline: Scores) -> Difference:
    """How far ``arm`` is above ``baseline``; both have at least one score."""
    x, y, paired = _samples(arm, baseline)
    if paired:
        found = estimate(x - y)
        assert found.mean is not None
        sds = () if found.sd is None else (found.sd,)
        return Difference(found.mean, True, (found.n,), sds, found.interval)
    sds = () if min(len(x), len(y)) < 2 else (float(x.std(ddof=1)), float(y.std(ddof=1)))
    value = float(x.mean() - y.mean())
    return Difference(value, False, (len(x), len(y)), sds, difference_interval(x, y))


def permutation(arm: Scores, baseline: Scores) -> Permutation | None:
    """Whether dealing out the arms' labels by chance makes so large a difference; None with fewer than two seeds.

    Paired: both runs of a seed may swap arms, by the mean difference. Unpaired: all runs are dealt out anew, by Welch's
    t, which is right for unequal variances in large samples too. Scores are rounded to a billionth and counted in
    billionths, so that equal differences of decimals are ties.
    """
    x, y, paired = _samples(arm, baseline)
    if min(len(x), len(y)) < 2:
        return None
    done = stats.permutation_test(
        (np.rint(x * 1e9), np.rint(y * 1e9)),
        _sum_of_differences if paired else _welch_t,
        permutation_type="samples" if paired else "independent",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        batch=10_000,
        rng=np.random.default_rng(0),
    )
    arrangements = _arrangements(len(x)) if paired else _arrangements(len(x), len(y))
    exact = arrangements <= PERMUTATIONS
    return Permutation(float(done.pvalue), smallest_p(len(x)) if paired else smallest_p(len(x), len(y)), exact)


def smallest_p(*runs: int) -> float:
    """The smallest p of the test above: of so many pairs, or of so many runs against so many."""
    return 2 / min(_arrangements(*runs), PERMUTATIONS + 1)


def seeds_to_reach(comparisons: int = 1, alpha: float = ALPHA) -> int:
    """The fewest paired seeds at which one of so many comparisons can come out below ``alpha`` after Holm."""
    return next(n for n in range(2, 64) if comparisons * 2 / 2**n <= alpha)


def runs_to_see(found: Difference, comparisons: int = 1) -> int | None:
    """Runs an arm with 80 % power at 5 % in a t-test if ``found`` were true.

    No fewer than the permutation test needs to reach 5 % after Holm over so many ``comparisons`` at all.
    """
    needed = runs_needed(found.value, found.sds) if found.sds else None
    if needed is None:
        return None
    if found.paired:
        return max(needed, seeds_to_reach(comparisons))
    return max(needed, next(n for n in range(2, 64) if comparisons * smallest_p(n, n) <= ALPHA))


def holm(ps: Sequence[float]) -> list[float]:
    """The p values of one table, each adjusted for all, in the order given (Holm 1979)."""
    adjusted, so_far = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        so_far = max(so_far, (len(ps) - rank) * ps[place])
        adjusted[place] = min(1.0, so_far)
    return adjusted


def _samples(arm: Scores, baseline: Scores) -> tuple[np.ndarray, np.ndarray, bool]:
    shared = shared_seeds(arm, baseline)
    x, y = ([side[seed] for seed in (shared or sorted(side))] for side in (arm, baseline))
    return np.array(x, dtype=float), np.array(y, dtype=float), bool(shared)


def _arrangements(*runs: int) -> int:
    return 2 ** runs[0] if len(runs) == 1 else math.comb(sum(runs), runs[0])


def _sum_of_differences(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
    return np.sum(x - y, axis=axis)


def _welch_t(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
    means, variances = zip(*((s.mean(axis), s.var(axis, ddof=1) / s.shape[axis]) for s in (x, y)), strict=True)
    floor = 1e-12 * (np.abs(means[0]) + np.abs(means[1])) + 1e-300  # where a resample has no spread
    return (means[0] - means[1]) / np.maximum(np.sqrt(variances[0] + variances[1]), floor)
