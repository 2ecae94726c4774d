"""Means, differences, intervals and tests of few runs an arm. Pure numbers: knows neither files nor networks.

Scores come as {seed: score}. Two arms are paired by seed where at least two seeds (or the only one of an arm), and at
least half of those of the smaller arm, are shared: then all is computed from the differences of those pairs. Otherwise
they are two independent samples with a variance each. The choice looks at seeds, never at scores. docs/statistics.md
gives the reasons.

Intervals. Source: Hesterberg, What Teachers Should Know About the Bootstrap, 2015, arXiv:1411.5279, the expanded
percentile interval: the percentiles are taken further out, as far as Student's t and n - 1 would put them, because
resampling few values shows too little spread. Departure: for two samples likewise with Welch's t. Of 5 normal values it
covers the mean in 92 % of samples, plain percentiles and BCa in 84 %. It stays between the smallest and the largest
value, so no interval of its kind can do better than 1 - 2**(1 - n), 93.75 % at 5 and 87.5 % at 4: below 5 values
Student's t stands in. Bootstrap-t covers 95 % of normal samples too and was turned down for its widths, erratic with
few values and skewed ones. docs/statistics.md has the measurements.

Power. How many runs an arm would need, so that a t-test sees a difference with 80 % power at 5 %: two-sided, by the
noncentral t distribution, paired by seed with one standard deviation, that of the pairs' differences; unpaired with one
each, by Welch's test of two arms of the same size. It takes the difference that it is given as the true one: an
observed difference is a guess, and one that was picked for being large is too large a guess.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

Scores = Mapping[int, float]  # by seed

LEVEL = 0.95
FEW = 5  # values; below, Student's t
RESAMPLES = 49_999
PERMUTATIONS = 99_999  # all of them are counted up to so many (16 pairs, 9 against 9), beyond it so many are drawn
ALPHA = 0.05
POWER = 0.8
MOST = 2**19  # runs; beyond that the answer is none


@dataclass(frozen=True)
class Interval:
    """Ends of a 95 % interval and how they were found, "bootstrap" or "t"; or why there is none."""

    low: float | None = None
    high: float | None = None
    kind: str = ""
    why_not: str = ""


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
    """Return the seeds to pair by; none if the arms are to be compared unpaired."""
    shared = sorted(set(arm) & set(baseline))
    smaller = min(len(arm), len(baseline))
    few = len(shared) < 2 and smaller > 1
    return [] if few or 2 * len(shared) < smaller else shared


def difference(arm: Scores, baseline: Scores) -> Difference:
    """Return how far ``arm`` is above ``baseline``; both have at least one score."""
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
    """Test whether dealing out the arms' labels by chance makes so large a difference; None with fewer than two seeds.

    Paired: both runs of a seed may swap arms, by the mean difference. Unpaired: all runs are dealt out anew, by Welch's
    t, which is right for unequal variances in large samples too. Scores are rounded to a billionth and counted in
    billionths, so that equal differences of decimals are ties.
    """
    x, y, paired = _samples(arm, baseline)
    if min(len(x), len(y)) < 2:
        return None
    done = stats.permutation_test(
        (np.rint(x * 1e9), np.rint(y * 1e9)),
        (lambda x, y, axis: np.sum(x - y, axis=axis)) if paired else _welch_t,
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
    """Return the smallest p of the test above: of so many pairs, or of so many runs against so many."""
    return 2 / min(_arrangements(*runs), PERMUTATIONS + 1)


def seeds_to_reach(comparisons: int = 1, alpha: float = ALPHA) -> int:
    """Return the fewest paired seeds at which one of so many comparisons can come out below ``alpha`` after Holm."""
    return next(n for n in range(2, 64) if comparisons * 2 / 2**n <= alpha)


def runs_to_see(found: Difference, comparisons: int = 1) -> int | None:
    """Return the runs an arm with 80 % power at 5 % in a t-test if ``found`` were true.

    No fewer than the permutation test needs to reach 5 % after Holm over so many ``comparisons`` at all.
    """
    needed = runs_needed(found.value, found.sds) if found.sds else None
    if needed is None:
        return None
    if found.paired:
        return max(needed, seeds_to_reach(comparisons))
    return max(needed, next(n for n in range(2, 64) if comparisons * smallest_p(n, n) <= ALPHA))


def holm(ps: Sequence[float]) -> list[float]:
    """Return the p values of one table, each adjusted for all, in the order given (Holm 1979)."""
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


def _welch_t(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
    means, variances = zip(*((s.mean(axis), s.var(axis, ddof=1) / s.shape[axis]) for s in (x, y)), strict=True)
    floor = 1e-12 * (np.abs(means[0]) + np.abs(means[1])) + 1e-300  # where a resample has no spread
    return (means[0] - means[1]) / np.maximum(np.sqrt(variances[0] + variances[1]), floor)


def mean_interval(values: np.ndarray) -> Interval:
    """Return the interval of the mean of ``values`` (n,), whose order does not matter."""
    n = len(values)
    if n < 2:
        return Interval(why_not="one run has no spread" if n else "no runs")
    error = float(values.std(ddof=1)) / math.sqrt(n)
    if _negligible(error, values):
        return Interval(why_not=f"all {n} values are the same")
    reach = float(stats.t.ppf((1 + LEVEL) / 2, n - 1))
    if n < FEW:
        return _students(float(values.mean()), reach * error)
    return _percentiles((values,), np.mean, reach * math.sqrt(n / (n - 1)))


def difference_interval(values: np.ndarray, baseline: np.ndarray) -> Interval:
    """Return the interval of mean(values) - mean(baseline), two independent samples with a variance each."""
    n, m = len(values), len(baseline)
    if min(n, m) < 2:
        return Interval(why_not="one run has no spread" if min(n, m) else "no runs")
    a, b = float(values.var(ddof=1)) / n, float(baseline.var(ddof=1)) / m
    error = math.sqrt(a + b)
    if _negligible(error, np.concatenate([values, baseline])):
        return Interval(why_not="all values of each arm are the same")
    reach = float(stats.t.ppf((1 + LEVEL) / 2, welch_freedom(a, n, b, m)))
    if min(n, m) < FEW:
        return _students(float(values.mean() - baseline.mean()), reach * error)
    shown = math.sqrt(a * (n - 1) / n + b * (m - 1) / m)  # the spread of the resamples
    return _percentiles((values, baseline), lambda x, y, axis: x.mean(axis) - y.mean(axis), reach * error / shown)


def welch_freedom(a: float, n: int, b: float, m: int) -> float:
    """Return Welch and Satterthwaite's degrees of freedom; ``a``, ``b``: each arm's variance over runs, not both 0."""
    return (a + b) ** 2 / (a * a / (n - 1) + b * b / (m - 1))


def _students(value: float, reach: float) -> Interval:
    return Interval(value - reach, value + reach, "t")


def _percentiles(samples: tuple[np.ndarray, ...], statistic, reach: float) -> Interval:
    """Return the percentiles ``reach`` standard normal deviations out."""
    found = stats.bootstrap(
        tuple(np.sort(sample) for sample in samples),
        statistic,
        method="percentile",
        confidence_level=1 - 2 * float(stats.norm.sf(reach)),
        n_resamples=RESAMPLES,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    low, high = found.confidence_interval
    return Interval(float(low), float(high), "bootstrap")


def _negligible(error: float, values: np.ndarray) -> bool:
    return error <= 1e-12 * float(np.abs(values).max())


def power(difference: float, sds: tuple[float, ...], runs: int) -> float:
    """Return the chance that the test of ``runs`` runs an arm comes out below ALPHA.

    ``sds``: of the paired differences, or of the arm and of the baseline.
    """
    if len(sds) == 1:
        freedom, error = runs - 1.0, sds[0] / math.sqrt(runs)
    else:
        error = math.hypot(*sds) / math.sqrt(runs)
        freedom = 1.0 if error == 0 else welch_freedom(sds[0] ** 2 / runs, runs, sds[1] ** 2 / runs, runs)
    if abs(difference) > 35 * error:
        return 1.0  # more than 0.99 at any number of runs
    edge, shift = stats.t.ppf(1 - ALPHA / 2, freedom), abs(difference) / error
    wrong_side = stats.nct.cdf(-edge, freedom, shift) if shift < 5 else 0.0  # below 1e-8 there, and nan from 7 on
    return float(stats.nct.sf(edge, freedom, shift) + wrong_side)


def runs_needed(difference: float, sds: tuple[float, ...]) -> int | None:
    """Return the fewest runs an arm, at least 2, with POWER; None if the difference is 0 or MOST are too few."""
    if difference == 0:
        return None
    enough = range(2, MOST + 1)
    place = bisect_left(enough, POWER, key=lambda runs: power(difference, sds, runs))
    return enough[place] if place < len(enough) else None
