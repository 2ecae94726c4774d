"""Bootstrap intervals of a mean and of a difference of means, for the few runs that a study has.

Source: Hesterberg, What Teachers Should Know About the Bootstrap, 2015, arXiv:1411.5279, the expanded percentile
interval: the percentiles are taken further out, as far as Student's t and n - 1 would put them, because resampling few
values shows too little spread. Departure: for two samples likewise with Welch's t.

Why this one: of 5 normal values it covers the mean in 92 % of samples, plain percentiles and BCa in 84 %. It stays
between the smallest and the largest value, so no interval of its kind can do better than 1 - 2**(1 - n), 93.75 % at 5
and 87.5 % at 4: below 5 values Student's t stands in. Bootstrap-t covers 95 % of normal samples too and was turned down
for its widths, erratic with few values and skewed ones. docs/statistics.md has the measurements.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
FEW = 5  # below, Student's t
RESAMPLES = 49_999


@dataclass(frozen=True)
class Interval:
    """Ends of a 95 % interval and how they were found, "bootstrap" or "t"; or why there is none."""

    low: float | None = None
    high: float | None = None
    kind: str = ""
    why_not: str = ""


def mean_interval(values: np.ndarray) -> Interval:
    """The interval of the mean of ``values`` (n,), whose order does not matter."""
    n = len(values)
    if n < 2:
        return Interval(why_not="one run has no spread" if n else "no runs")
    error = float(values.std(ddof=1)) / math.sqrt(n)
    if _negligible(error, values):
        return Interval(why_not=f"all {n} values are the same")
    reach = float(stats.t.ppf((1 + LEVEL) / 2, n - 1))
    if n < FEW:
        return _students(float(values.mean()), reach * error)
    return _percentiles((values,), _mean, reach * math.sqrt(n / (n - 1)))


def difference_interval(values: np.ndarray, baseline: np.ndarray) -> Interval:
    """The interval of mean(values) - mean(baseline), two independent samples with a variance each."""
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
    return _percentiles((values, baseline), _mean_difference, reach * error / shown)


def welch_freedom(a: float, n: int, b: float, m: int) -> float:
    """Degrees of freedom by Welch and Satterthwaite; ``a``, ``b``: variance over runs of each arm, not both 0."""
    return (a + b) ** 2 / (a * a / (n - 1) + b * b / (m - 1))


def _students(value: float, reach: float) -> Interval:
    return Interval(value - reach, value + reach, "t")


def _percentiles(samples: tuple[np.ndarray, ...], statistic, reach: float) -> Interval:
    """Percentiles ``reach`` standard normal deviations out."""
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


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    return values.mean(axis)


def _mean_difference(values: np.ndarray, baseline: np.ndarray, axis: int) -> np.ndarray:
    return values.mean(axis) - baseline.mean(axis)


def _negligible(error: float, values: np.ndarray) -> bool:
    return error <= 1e-12 * float(np.abs(values).max())
