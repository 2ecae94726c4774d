"""Means, differences, intervals and tests of few runs an arm. Pure numbers: no files, no networks.

Scores are percentages by seed, {seed: score}. Two arms are paired by the seeds that they share: all is computed from
the differences of those pairs. docs/statistics.md gives the reasons.

Intervals. Source: Hesterberg, What Teachers Should Know About the Bootstrap, 2015, arXiv:1411.5279, the expanded
percentile interval: the percentiles are taken further out, as far as Student's t and n - 1 would put them, because
resampling few values shows too little spread. Of 5 normal values it covers the mean in 92 % of samples, plain
percentiles and BCa in 84 %. It stays between the smallest and the largest value, so no interval of its kind can do
better than 1 - 2**(1 - n), 93.75 % at 5 and 87.5 % at 4: below 5 values Student's t stands in, cut to the values that a
score, or a difference of scores, can have. Bootstrap-t covers 95 % of normal samples too, but its widths are erratic
with few values and skewed ones. docs/statistics.md has the measurements.

Power. The number of runs an arm needs for a two-sided paired t-test to see a difference with 80 % power at 5 %, by the
noncentral t distribution. It takes the observed difference as the true one, which is a guess; a difference picked for
being large is too large a guess.
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
PERMUTATIONS = 99_999  # all of them are counted up to 16 pairs; beyond, so many are drawn
ALPHA = 0.05
POWER = 0.8
MOST = 2**19  # runs; beyond that the answer is none
SCORES = (0.0, 100.0)
DIFFERENCES = (-100.0, 100.0)


@dataclass(frozen=True)
class Interval:
    """Ends of a 95 % interval and its kind, "bootstrap" or "t"; or the reason why there is none."""

    low: float | None = None
    high: float | None = None
    kind: str = ""
    why_not: str = ""

    @property
    def ends(self) -> tuple[float, float] | None:
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class Estimate:
    """A mean of ``n`` values; the mean of none is None, and so is the standard deviation (n - 1) of fewer than two."""

    mean: float | None
    sd: float | None
    n: int
    interval: Interval


@dataclass(frozen=True)
class Permutation:
    """A two-sided permutation test, and the smallest p that so many pairs can give."""

    p: float
    smallest_p: float


def estimate(values: Sequence[float] | np.ndarray, bounds: tuple[float, float] = SCORES) -> Estimate:
    """Return mean, standard deviation and interval, which stays within ``bounds``."""
    values = np.asarray(values, dtype=float)
    n = len(values)
    mean = float(values.mean()) if n else None
    sd = float(values.std(ddof=1)) if n > 1 else None
    return Estimate(mean, sd, n, mean_interval(values, bounds))


def difference(arm: Scores, baseline: Scores) -> Estimate:
    """Return the estimate of arm less baseline, over the seeds that they share."""
    return estimate(_differences(arm, baseline), DIFFERENCES)


def permutation(arm: Scores, baseline: Scores) -> Permutation | None:
    """Test the mean difference, both runs of a seed being free to swap arms; None with fewer than two shared seeds.

    Sums are rounded to a millionth, so that those of equal numbers of images are ties.
    """
    differences = _differences(arm, baseline)
    if len(differences) < 2:
        return None
    done = stats.permutation_test(
        (differences, np.zeros_like(differences)),
        lambda x, y, axis: np.round(np.sum(x - y, axis=axis), 6),
        permutation_type="samples",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        batch=10_000,
        rng=np.random.default_rng(0),
    )
    return Permutation(float(done.pvalue), smallest_p(len(differences)))


def smallest_p(pairs: int) -> float:
    """Return the smallest p that the test can give."""
    return 2 / min(2**pairs, PERMUTATIONS + 1)


def seeds_to_reach(comparisons: int = 1, alpha: float = ALPHA) -> int:
    """Return the fewest shared seeds with which one of so many comparisons can come out below ``alpha`` after Holm."""
    return next(n for n in range(2, 64) if comparisons * 2 / 2**n <= alpha)


def runs_to_see(found: Estimate, comparisons: int = 1) -> int | None:
    """Return the runs an arm with 80 % power at 5 % in a t-test if the difference ``found`` were true.

    No fewer than the permutation test needs to reach 5 % after Holm over so many ``comparisons`` at all.
    """
    needed = None if found.mean is None or found.sd is None else runs_needed(found.mean, found.sd)
    return None if needed is None else max(needed, seeds_to_reach(comparisons))


def holm(ps: Sequence[float]) -> list[float]:
    """Return p values adjusted for all of them, in the order given (Holm 1979)."""
    adjusted, so_far = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        so_far = max(so_far, (len(ps) - rank) * ps[place])
        adjusted[place] = min(1.0, so_far)
    return adjusted


def _differences(arm: Scores, baseline: Scores) -> np.ndarray:
    return np.array([arm[seed] - baseline[seed] for seed in sorted(set(arm) & set(baseline))], dtype=float)


def mean_interval(values: np.ndarray, bounds: tuple[float, float] = SCORES) -> Interval:
    """Return the interval of the mean of ``values`` (n,), whose order does not matter."""
    n = len(values)
    if n < 2:
        return Interval(why_not="one run has no spread" if n else "no runs")
    error = float(values.std(ddof=1)) / math.sqrt(n)
    if error <= 1e-12 * float(np.abs(values).max()):
        return Interval(why_not=f"all {n} values are the same")
    reach = float(stats.t.ppf((1 + LEVEL) / 2, n - 1))
    if n < FEW:
        low, high = (min(max(float(values.mean()) + side * reach * error, bounds[0]), bounds[1]) for side in (-1, 1))
        return Interval(low, high, "t")
    found = stats.bootstrap(
        (np.sort(values),),
        np.mean,
        method="percentile",
        confidence_level=1 - 2 * float(stats.norm.sf(reach * math.sqrt(n / (n - 1)))),
        n_resamples=RESAMPLES,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    low, high = found.confidence_interval
    return Interval(float(low), float(high), "bootstrap")


def power(difference: float, sd: float, runs: int) -> float:
    """Return the chance that a t-test of so many pairs, whose differences have ``sd``, comes out below ALPHA."""
    error = sd / math.sqrt(runs)
    if abs(difference) > 35 * error:
        return 1.0  # more than 0.99 at any number of runs
    edge, shift = stats.t.ppf(1 - ALPHA / 2, runs - 1), abs(difference) / error
    wrong_side = stats.nct.cdf(-edge, runs - 1, shift) if shift < 5 else 0.0  # below 1e-8 there, and nan from 7 on
    return float(stats.nct.sf(edge, runs - 1, shift) + wrong_side)


def runs_needed(difference: float, sd: float) -> int | None:
    """Return the fewest runs an arm, at least 2, with POWER; None if the difference is 0 or MOST are too few."""
    if difference == 0:
        return None
    enough = range(2, MOST + 1)
    place = bisect_left(enough, POWER, key=lambda runs: power(difference, sd, runs))
    return enough[place] if place < len(enough) else None
