import math

import numpy as np
import pytest
from scipy import stats
from study.coverage import SOURCES, intervals, quantile, resamples

from attnconv.study.statistics import difference_interval, mean_interval

FIVE = np.array([71.2, 70.1, 73.9, 71.8, 70.6])


def test_the_mean_interval_is_that_of_all_resamples_listed():
    low, high = (end[0] for end in intervals(FIVE[None])["expanded"])
    found = mean_interval(FIVE)
    assert found.kind == "bootstrap"
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06)  # one step among the outermost resamples


def test_the_interval_of_a_difference_is_that_of_all_pairs_of_resamples_listed():
    x, y = FIVE, np.array([69.0, 70.4, 69.9, 70.1, 66.5])
    counts, weights = resamples(5)
    shifts = np.subtract.outer(counts @ x / 5, counts @ y / 5).ravel()
    freedom = stats.ttest_ind(x, y, equal_var=False).df
    tail = np.array([stats.norm.sf(stats.t.ppf(0.975, freedom) * math.sqrt(5 / 4))])
    ends = [quantile(side * shifts[None], np.multiply.outer(weights, weights).ravel(), tail)[0] for side in (1, -1)]
    found = difference_interval(x, y)
    assert found.kind == "bootstrap"
    assert (found.low, found.high) == pytest.approx(
        (ends[0], -ends[1]), abs=0.1
    )  # not expanded, the ends are 0.12 and 0.3 further in


@pytest.mark.parametrize("n", [30, 200])
def test_with_many_values_it_becomes_students(n):
    values = np.random.default_rng(1).normal(70, 1, n)
    found = mean_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    width = expected.high - expected.low
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.06 * width)


def test_with_many_values_a_difference_becomes_welchs():
    generator = np.random.default_rng(2)
    x, y = generator.normal(70, 1, 60), generator.normal(69, 3, 25)
    found = difference_interval(x, y)
    expected = stats.ttest_ind(x, y, equal_var=False).confidence_interval(0.95)
    width = expected.high - expected.low
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.06 * width)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_below_five_values_students_t_stands_in(n):
    found = mean_interval(FIVE[:n])
    expected = stats.ttest_1samp(FIVE[:n], 0).confidence_interval(0.95)
    assert found.kind == "t"
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_below_five_values_an_arm_welchs_t_stands_in():
    found = difference_interval(FIVE, FIVE[:3] - 2)
    expected = stats.ttest_ind(FIVE, FIVE[:3] - 2, equal_var=False).confidence_interval(0.95)
    assert found.kind == "t"
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_it_does_not_depend_on_order_or_on_the_moment():
    assert mean_interval(FIVE) == mean_interval(FIVE[::-1]) == mean_interval(FIVE)
    assert difference_interval(FIVE, FIVE + 1) == difference_interval(FIVE[::-1], FIVE[::-1] + 1)


def test_it_stays_between_the_extremes():
    values = np.array([74.0, 74.2, 73.9, 74.1, 12.0])  # one run that diverged
    found = mean_interval(values)
    assert found.low is not None
    assert found.high is not None
    assert 12 <= found.low < values.mean() < found.high <= 74.2


@pytest.mark.parametrize(
    ("values", "reason"),
    [([], "no runs"), ([70.0], "one run has no spread"), ([100.0] * 5, "all 5 values are the same")],
)
def test_no_interval_without_spread(values, reason):
    found = mean_interval(np.array(values))
    assert (found.low, found.high, found.why_not) == (None, None, reason)


@pytest.mark.parametrize(
    ("values", "reason"),
    [([], "no runs"), ([70.0], "one run has no spread"), ([100.0] * 5, "all values of each arm are the same")],
)
def test_no_interval_of_a_difference_without_spread(values, reason):
    assert difference_interval(np.array(values), np.full(5, 90.0)).why_not == reason


def test_one_arm_without_spread_still_gives_an_interval():
    found = difference_interval(np.full(5, 100.0), FIVE)
    assert found.low is not None
    assert found.low < 100 - FIVE.mean()


def coverage(n: int, samples: int) -> int:
    generator, held = np.random.default_rng(3), 0
    for _ in range(samples):
        found = mean_interval(SOURCES["normal"](generator, n))
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0 <= found.high
    return held


def likely(samples: int, share: float) -> tuple[float, float]:
    """What 999 of 1,000 binomial counts lie in."""
    return stats.binom.interval(0.999, samples, share)


def test_students_t_covers_what_it_says():
    low, high = likely(1000, 0.95)
    assert low <= coverage(4, 1000) <= high


def test_of_five_values_it_covers_the_documented_share():
    low, high = likely(200, 0.922)
    assert low <= coverage(5, 200) <= high


@pytest.mark.slow
@pytest.mark.parametrize(("n", "share"), [(5, 0.922), (8, 0.943)])
def test_coverage_is_the_documented_one(n, share):
    low, high = likely(1000, share)
    assert low <= coverage(n, 1000) <= high


@pytest.mark.slow
def test_coverage_of_a_difference_with_unequal_variances():
    generator, held = np.random.default_rng(4), 0
    for _ in range(1000):
        found = difference_interval(generator.normal(0, 1, 5), generator.normal(0, 3, 5))
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0 <= found.high
    assert likely(1000, 0.91)[0] <= held <= likely(1000, 0.95)[1]


def test_no_interval_inside_the_sample_covers_more_than_the_bound():
    found = intervals(SOURCES["normal"](np.random.default_rng(5), (20_000, 5)))
    for name in ("expanded", "percentile", "BCa"):
        share = np.mean((found[name][0] <= 0) & (found[name][1] >= 0))
        assert share <= 1 - 2**-4 + 3 * math.sqrt(0.06 / 20_000)
