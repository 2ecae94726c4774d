"""Means, differences, intervals, tests and power."""

import math

import numpy as np
import pytest
from scipy import stats
from study.coverage import SOURCES, intervals

from attnconv.study import statistics
from attnconv.study.statistics import (
    difference,
    estimate,
    holm,
    mean_interval,
    permutation,
    power,
    runs_needed,
    seeds_to_reach,
    smallest_p,
)


def seeded(values, first: int = 0) -> dict[int, float]:
    return {first + i: float(value) for i, value in enumerate(values)}


def test_mean_and_standard_deviation():
    found = estimate([70.0, 72.0, 77.0])
    assert found.mean == 73.0
    assert found.sd == pytest.approx(np.std([70, 72, 77], ddof=1))
    assert found.n == 3


def test_one_run_has_a_mean_only():
    found = estimate([70.0])
    assert (found.mean, found.sd, found.n, found.interval.low) == (70.0, None, 1, None)


def test_no_runs_have_nothing():
    assert (estimate([]).mean, estimate([]).sd) == (None, None)


def test_a_paired_difference_is_that_of_the_shared_seeds():
    found = difference({0: 70.0, 1: 72.0, 2: 99.0}, {1: 71.0, 0: 68.0, 7: 0.0})
    assert (found.mean, found.n) == (1.5, 2)
    assert found.sd == pytest.approx(np.std([2, 1], ddof=1))


def test_without_a_shared_seed_there_is_no_difference():
    found = difference({0: 70.0, 1: 72.0}, {2: 71.0, 3: 68.0})
    assert (found.mean, found.n) == (None, 0)
    assert permutation({0: 70.0, 1: 72.0}, {2: 71.0, 3: 68.0}) is None


@pytest.mark.parametrize("runs", [5, 6, 12])
def test_the_smallest_p_is_what_a_huge_effect_gets(runs):
    noise = np.random.default_rng(0).normal(size=12)
    found = permutation(seeded(90 + noise[:runs]), seeded(10 - noise[:runs]))
    assert found.p == pytest.approx(found.smallest_p) == pytest.approx(smallest_p(runs))


def test_no_difference_at_all():
    assert permutation(seeded([70.0] * 6), seeded([70.0] * 6)).p == 1.0


@pytest.mark.parametrize(
    ("scores", "bounds"), [([99.0, 99.9], (0.0, 100.0)), ([0.1, 0.9], (0.0, 100.0)), ([80.0, 99.0], (-100.0, 100.0))]
)
def test_no_interval_leaves_the_scale(scores, bounds):
    found = estimate(scores, bounds).interval
    assert bounds[0] <= found.low < found.high <= bounds[1]
    assert bounds[0] == found.low or bounds[1] == found.high


def test_runs_to_see_is_never_fewer_than_the_test_needs():
    clear = difference(seeded([80.0, 81.1, 79.8]), seeded([70.0, 71.0, 70.0]))
    assert statistics.runs_to_see(clear) == 6
    assert statistics.runs_to_see(clear, comparisons=2) == 7 == seeds_to_reach(2)


def test_an_interval_does_not_depend_on_order_or_on_the_moment():
    assert mean_interval(FIVE) == mean_interval(FIVE[::-1]) == mean_interval(FIVE)


def test_sign_flips_by_hand():
    # differences 3, 1, -2: of the 8 sums of signs, 2 and all above are 6, 4, 2, 2 (mirrored below): p = 2 * 3 / 8
    found = permutation({0: 13.0, 1: 11.0, 2: 8.0}, {0: 10.0, 1: 10.0, 2: 10.0})
    assert found == statistics.Permutation(p=0.75, smallest_p=0.25)


def test_equal_differences_of_decimals_are_ties():
    # 0.1 three times up and once down; in binary they differ in the last digits. Of 16 signs, 5 sum to 0.2 or more.
    x, y = seeded([70.3, 71.2, 73.7, 60.1]), seeded([70.2, 71.1, 73.6, 60.2])
    assert permutation(x, y).p == 2 * 5 / 16


def test_five_pairs_cannot_reach_five_percent():
    assert smallest_p(5) == 0.0625
    assert smallest_p(6) == 0.03125


@pytest.mark.parametrize(("comparisons", "seeds"), [(1, 6), (2, 7), (3, 7), (7, 9), (12, 9)])
def test_seeds_that_can_reach_five_percent_after_holm(comparisons, seeds):
    assert seeds_to_reach(comparisons) == seeds
    assert comparisons * smallest_p(seeds) <= 0.05 < comparisons * smallest_p(seeds - 1)


def test_sums_of_equal_numbers_of_images_are_ties():
    # images of 3,929 that the arm has more: of the 128 signs, 24 sum to 75 or more, and as many to -75 or less
    images = [-33, -8, 6, 36, 0, 41, 33]
    x = seeded([100 * (1600 + more) / 3929 for more in images])
    assert permutation(x, seeded([100 * 1600 / 3929] * 7)).p == 48 / 128


def test_many_pairs_agree_with_the_paired_t_test():
    generator = np.random.default_rng(1)
    x = generator.normal(70, 1, 60)
    y = x - generator.normal(0.25, 1, 60)
    found = permutation(seeded(x), seeded(y))
    assert found.p == pytest.approx(stats.ttest_rel(x, y).pvalue, abs=0.01)
    assert found.p == permutation(seeded(x), seeded(y)).p


@pytest.mark.parametrize(("arm", "baseline"), [([70.0], [71.0]), ([70.0], [71.0, 72.0])])
def test_no_test_with_fewer_than_two_seeds(arm, baseline):
    assert permutation(seeded(arm), seeded(baseline)) is None
    assert difference(seeded(arm), seeded(baseline)).interval.low is None


def test_holm_by_hand():
    # sorted 0.01, 0.013, 0.03, 0.04: times 4, 3, 2, 1 = 0.04, 0.039, 0.06, 0.04, then never below the one before
    assert holm([0.03, 0.01, 0.04, 0.013]) == pytest.approx([0.06, 0.04, 0.06, 0.04])


@pytest.mark.parametrize(("ps", "adjusted"), [([], []), ([0.02], [0.02]), ([0.6, 0.7], [1.0, 1.0])])
def test_holm_at_the_edges(ps, adjusted):
    assert holm(ps) == adjusted


def test_no_number_of_runs_shows_no_difference():
    assert statistics.runs_to_see(difference(seeded([70.0, 71.0]), seeded([71.0, 70.0]))) is None


FIVE = np.array([71.2, 70.1, 73.9, 71.8, 70.6])


def test_the_mean_interval_is_that_of_all_resamples_listed():
    low, high = (end[0] for end in intervals(FIVE[None])["expanded"])
    found = mean_interval(FIVE)
    assert found.kind == "bootstrap"
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06)  # one step among the outermost resamples


@pytest.mark.parametrize("n", [30, 200])
def test_with_many_values_it_becomes_students(n):
    values = np.random.default_rng(1).normal(70, 1, n)
    found = mean_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    width = expected.high - expected.low
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.06 * width)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_below_five_values_students_t_stands_in(n):
    found = mean_interval(FIVE[:n])
    expected = stats.ttest_1samp(FIVE[:n], 0).confidence_interval(0.95)
    assert found.kind == "t"
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


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


def coverage(n: int, samples: int) -> int:
    generator, held = np.random.default_rng(3), 0
    for _ in range(samples):
        found = mean_interval(SOURCES["normal"](generator, n), (-math.inf, math.inf))
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0 <= found.high
    return held


def likely(samples: int, share: float) -> tuple[float, float]:
    """Return the limits of 999 in 1,000 binomial counts."""
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


def test_no_interval_inside_the_sample_covers_more_than_the_bound():
    found = intervals(SOURCES["normal"](np.random.default_rng(5), (20_000, 5)))
    for name in ("expanded", "percentile", "BCa"):
        share = np.mean((found[name][0] <= 0) & (found[name][1] >= 0))
        assert share <= 1 - 2**-4 + 3 * math.sqrt(0.06 / 20_000)


@pytest.mark.parametrize(("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_pairs_needed_as_cohen_tabulates(effect, pairs):
    assert runs_needed(effect, 1.0) == pairs


def test_none_when_a_million_are_too_few():
    assert runs_needed(1e-4, 1.0) is None


@pytest.mark.parametrize("shift", [*np.linspace(0.1, 4, 5), *np.linspace(5, 24, 20)])
def test_power_grows_with_the_difference(shift):
    assert power(shift, 1.0, 2) < power(shift + 0.2, 1.0, 2) <= 1


@pytest.mark.parametrize(("difference", "runs"), [(1.0, 5), (-0.5, 20), (2.0, 3)])
def test_power_is_that_of_simulated_studies(difference, runs):
    x = np.random.default_rng(0).normal(difference, 1.0, (20_000, runs))
    found = float(np.mean(stats.ttest_1samp(x, 0, axis=1).pvalue < 0.05))
    assert power(difference, 1.0, runs) == pytest.approx(found, abs=0.02)


def test_where_there_is_next_to_no_difference_five_percent_are_false_alarms():
    """Half of them say that it has the other sign."""
    assert power(1e-9, 1.0, 5) == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize("difference", [0.1, -0.7, 1.5])
def test_the_runs_needed_are_the_fewest_with_the_power(difference):
    runs = runs_needed(difference, 1.0)
    assert runs is not None
    assert power(difference, 1.0, runs) >= 0.8
    assert runs == 2 or power(difference, 1.0, runs - 1) < 0.8


def test_none_for_no_difference_and_two_runs_without_noise():
    assert runs_needed(0.0, 1.0) is None
    assert runs_needed(1.0, 0.0) == runs_needed(1.0, 1e-9) == 2
