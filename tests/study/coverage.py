"""How often intervals of few values cover the mean: `python tests/study/coverage.py` prints docs/statistics.md's table.

Bootstrap distributions are listed whole, with the probability of each resample, so nothing but the samples is random.
"""

import math
from itertools import combinations_with_replacement

import numpy as np
from scipy import stats

SAMPLES = 20_000
SOURCES = {
    "normal": lambda generator, shape: generator.normal(size=shape),
    "skewed": lambda generator, shape: math.exp(0.32) - np.exp(0.8 * generator.normal(size=shape)),  # mean 0
}
NAMES = ("t", "expanded", "percentile", "BCa", "bootstrap-t")


def resamples(n: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each value stands in each distinct resample (resamples, n), and their probabilities."""
    found = combinations_with_replacement(range(n), n)
    counts = np.array([np.bincount(resample, minlength=n) for resample in found])
    orders = [math.factorial(n) / math.prod(map(math.factorial, row)) for row in counts.tolist()]
    return counts.astype(float), np.array(orders) / n**n


def quantile(values: np.ndarray, weights: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Of each row of ``values`` (samples, resamples) the smallest that with those below it holds its ``share``."""
    order = np.argsort(values, axis=1, kind="stable")
    place = (np.cumsum(weights[order], axis=1) < share[:, None] - 1e-12).sum(axis=1)
    return np.take_along_axis(values, order, 1)[np.arange(len(values)), np.minimum(place, values.shape[1] - 1)]


def intervals(samples: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Both ends by each method, of each row of ``samples`` (samples, n)."""
    rows, n = samples.shape
    counts, weights = resamples(n)
    mean, error = samples.mean(1), samples.std(1, ddof=1) / math.sqrt(n)
    centred = samples - mean[:, None]
    shifts = centred @ counts.T / n  # (samples, resamples)
    variances = np.maximum(centred**2 @ counts.T / n - shifts**2, 0) / (n - 1)
    reach = stats.t.ppf(0.975, n - 1)

    def percentiles(of: np.ndarray, low: np.ndarray | float, high: np.ndarray | float):
        return tuple(quantile(of, weights, np.broadcast_to(share, rows)) for share in (low, high))

    tail = stats.norm.sf(reach * math.sqrt(n / (n - 1)))
    below = ((shifts < -1e-12) * weights).sum(1) + ((np.abs(shifts) <= 1e-12) * weights).sum(1) / 2
    bias, skew = stats.norm.ppf(below), (centred**3).sum(1) / (6 * (centred**2).sum(1) ** 1.5)
    z = [bias + side * stats.norm.ppf(0.975) for side in (-1, 1)]
    bca = [stats.norm.cdf(bias + edge / (1 - skew * edge)) for edge in z]
    flat = np.sqrt(variances) < 1e-6 * error[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        ts = np.where(flat & (np.abs(shifts) < 1e-9), 0.0, shifts / np.where(flat, 0.0, np.sqrt(variances)))
    t_low, t_high = percentiles(ts, 0.025, 0.975)
    found = {
        "t": (-reach * error, reach * error),
        "expanded": percentiles(shifts, tail, 1 - tail),
        "percentile": percentiles(shifts, 0.025, 0.975),
        "BCa": percentiles(shifts, *bca),
        "bootstrap-t": (-t_high * error, -t_low * error),
    }
    return {name: (mean + low, mean + high) for name, (low, high) in found.items()}


def measure(source: str, n: int, samples: int = SAMPLES) -> dict[str, tuple[float, float]]:
    """Of each method the share of intervals that hold the true mean, 0, and the width that 1 in 20 exceeds,
    in units of the median width of Student's."""
    generator, parts = np.random.default_rng(0), []
    for _ in range(samples // 250):
        parts.append(intervals(SOURCES[source](generator, (250, n))))
    joined = {name: [np.concatenate([part[name][end] for part in parts]) for end in (0, 1)] for name in NAMES}
    unit = np.median(joined["t"][1] - joined["t"][0])
    return {
        name: (
            float(np.mean((low <= 0) & (high >= 0))),
            float(np.quantile(high - low, 0.95, method="lower") / unit),
        )
        for name, (low, high) in joined.items()
    }


def main() -> None:
    print("| values | n |", " | ".join(NAMES), "|")
    print("|---|---|" + "---|" * len(NAMES))
    for source in SOURCES:
        for n in (3, 4, 5, 6, 7, 8):
            found = measure(source, n).values()
            print(
                f"| {source} | {n} |", " | ".join(f"{100 * share:.1f} % ({width:.1f})" for share, width in found), "|"
            )


if __name__ == "__main__":
    main()
