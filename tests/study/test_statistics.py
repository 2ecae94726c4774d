"""Means, differences, intervals, tests and power."""

import math

import numpy as np
import pytest
from scipy import stats
from study.coverage import SOURCES, intervals, quantile, resamples

from attnconv.study import statistics
from attnconv.study.statistics import (
    difference,
    difference_interval,
    estimate,
    holm,
    mean_interval,
    permutation,
    power,
    runs_needed,
    seeds_to_reach,
    shared_seeds,
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


@pytest.mark.parametrize(
    ("arm", "baseline", "shared"),
    [
        (range(5), range(5), [0, 1, 2, 3, 4]),
        (range(5), range(2, 7), [2, 3, 4]),
        (range(5), range(3, 8), []),  # 2 of 5 are less than half
        (range(4), range(2, 6), [2, 3]),
        (range(2), range(1, 3), []),  # one pair is no pairing
        (range(1), range(5), [0]),
        (range(5), range(5, 10), []),
    ],
)
def test_arms_are_paired_where_seeds_are_shared(arm, baseline, shared):
    assert shared_seeds(dict.fromkeys(arm, 1.0), dict.fromkeys(baseline, 1.0)) == shared


def test_a_paired_difference_is_that_of_the_shared_seeds():
    found = difference({0: 70.0, 1: 72.0, 2: 99.0}, {1: 71.0, 0: 68.0, 7: 0.0})
    assert (found.value, found.paired, found.n) == (1.5, True, (2,))
    assert found.sds == pytest.approx((np.std([2, 1], ddof=1),))


def test_an_unpaired_difference_is_that_of_the_means():
    found = difference({0: 70.0, 1: 72.0}, {5: 60.0, 6: 61.0, 7: 65.0})
    assert (found.value, found.paired, found.n) == (9.0, False, (2, 3))


def test_pairing_removes_what_the_seeds_share():
    generator = np.random.default_rng(0)
    common = generator.normal(0, 5, 8)
    x, y = common + generator.normal(1, 0.2, 8), common + generator.normal(0, 0.2, 8)
    paired, unpaired = difference(seeded(x), seeded(y)), difference(seeded(x), seeded(y, 100))
    assert paired.value == pytest.approx(unpaired.value)
    assert paired.interval.low is not None
    assert unpaired.interval.low is not None
    assert paired.interval.low > 0 > unpaired.interval.low
    assert permutation(seeded(x), seeded(y)).p < 0.01 < permutation(seeded(x), seeded(y, 100)).p


def test_sign_flips_by_hand():
    # differences 3, 1, -2: of the 8 sums of signs, 2 and all above are 6, 4, 2, 2 (mirrored below): p = 2 * 3 / 8
    found = permutation({0: 13.0, 1: 11.0, 2: 8.0}, {0: 10.0, 1: 10.0, 2: 10.0})
    assert found == statistics.Permutation(p=0.75, smallest_p=0.25, exact=True)


def test_equal_differences_of_decimals_are_ties():
    # 0.1 three times up and once down; in binary they differ in the last digits. Of 16 signs, 5 sum to 0.2 or more.
    x, y = seeded([70.3, 71.2, 73.7, 60.1]), seeded([70.2, 71.1, 73.6, 60.2])
    assert permutation(x, y).p == 2 * 5 / 16


def test_two_samples_by_hand():
    # 1, 2 against 3, 4, 5: one of ten ways to deal is as low
    assert permutation({0: 1.0, 1: 2.0}, {5: 3.0, 6: 4.0, 7: 5.0}) == statistics.Permutation(0.2, 0.2, True)


@pytest.mark.parametrize("runs", [(5,), (6,), (12,), (3, 3), (5, 5), (4, 7)])
def test_the_smallest_p_is_what_a_huge_effect_gets(runs):
    noise = np.random.default_rng(0).normal(size=12)
    first = 0 if len(runs) == 1 else 100
    found = permutation(seeded(90 + noise[: runs[0]]), seeded(10 - noise[: runs[-1]], first))
    assert found.p == pytest.approx(found.smallest_p) == pytest.approx(smallest_p(*runs))


def test_five_pairs_cannot_reach_five_percent():
    assert smallest_p(5) == 0.0625
    assert smallest_p(6) == 0.03125


@pytest.mark.parametrize(("comparisons", "seeds"), [(1, 6), (2, 7), (3, 7), (7, 9), (12, 9)])
def test_seeds_that_can_reach_five_percent_after_holm(comparisons, seeds):
    assert seeds_to_reach(comparisons) == seeds
    assert comparisons * smallest_p(seeds) <= 0.05 < comparisons * smallest_p(seeds - 1)


def test_many_pairs_agree_with_the_paired_t_test():
    generator = np.random.default_rng(1)
    x = generator.normal(70, 1, 60)
    y = x - generator.normal(0.25, 1, 60)
    found = permutation(seeded(x), seeded(y))
    assert not found.exact
    assert found.p == pytest.approx(stats.ttest_rel(x, y).pvalue, abs=0.01)
    assert found.p == permutation(seeded(x), seeded(y)).p


def test_many_runs_agree_with_welchs_test():
    generator = np.random.default_rng(2)
    x, y = generator.normal(70.6, 1, 60), generator.normal(70, 2, 40)
    expected = stats.ttest_ind(x, y, equal_var=False).pvalue
    assert permutation(seeded(x), seeded(y, 100)).p == pytest.approx(expected, abs=0.01)


def test_no_difference_at_all():
    assert permutation(seeded([70.0] * 6), seeded([70.0] * 6)).p == 1.0
    assert permutation(seeded([70.0] * 4), seeded([70.0] * 4, 100)).p == 1.0


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


def test_runs_to_see_is_never_fewer_than_the_test_needs():
    clear = difference(seeded([80.0, 81.1, 79.8]), seeded([70.0, 71.0, 70.0]))
    assert statistics.runs_to_see(clear) == 6
    unpaired = difference(seeded([80.0, 81.1, 79.8]), seeded([70.0, 71.0, 70.0], 100))
    assert statistics.runs_to_see(unpaired) == 4
    assert smallest_p(4, 4) <= 0.05 < smallest_p(3, 3)
    assert statistics.runs_to_see(clear, comparisons=2) == 7 == seeds_to_reach(2)
    assert statistics.runs_to_see(unpaired, comparisons=2) == 5
    assert 2 * smallest_p(5, 5) <= 0.05 < 2 * smallest_p(4, 4)


def test_no_number_of_runs_shows_no_difference():
    assert statistics.runs_to_see(difference(seeded([70.0, 71.0]), seeded([71.0, 70.0]))) is None


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


def simulated(difference: float, sds: tuple[float, ...], runs: int, studies: int = 20_000) -> float:
    generator = np.random.default_rng(0)
    x = generator.normal(difference, sds[0], (studies, runs))
    if len(sds) == 1:
        p = stats.ttest_1samp(x, 0, axis=1).pvalue
    else:
        p = stats.ttest_ind(x, generator.normal(0, sds[1], (studies, runs)), axis=1, equal_var=False).pvalue
    return float(np.mean(p < 0.05))


@pytest.mark.parametrize(
    ("difference", "sds", "runs"),
    [(1.0, (1.0,), 5), (-0.5, (1.0,), 20), (2.0, (1.0,), 3), (1.0, (1.0, 1.0), 10), (1.0, (0.5, 1.5), 16)],
)
def test_power_is_that_of_simulated_studies(difference, sds, runs):
    # Welch's freedom is estimated in a study and known in the formula, hence not only the sampling error of 0.0035
    assert power(difference, sds, runs) == pytest.approx(simulated(difference, sds, runs), abs=0.02)


@pytest.mark.parametrize(("sds", "runs"), [((1.0,), 5), ((1.0, 1.0), 10), ((0.5, 1.5), 16)])
def test_where_there_is_next_to_no_difference_five_percent_are_false_alarms(sds, runs):
    """Half of them say that it has the other sign."""
    assert power(1e-9, sds, runs) == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize("sds", [(1.0,), (1.0, 1.0), (0.5, 2.0)])
@pytest.mark.parametrize("difference", [0.1, -0.7, 1.5])
def test_the_runs_needed_are_the_fewest_with_the_power(difference, sds):
    runs = runs_needed(difference, sds)
    assert runs is not None
    assert power(difference, sds, runs) >= 0.8
    assert runs == 2 or power(difference, sds, runs - 1) < 0.8


@pytest.mark.parametrize(("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_pairs_needed_as_cohen_tabulates(effect, pairs):
    assert runs_needed(effect, (1.0,)) == pairs


@pytest.mark.parametrize(("effect", "runs"), [(0.2, 394), (0.5, 64), (0.8, 26)])
def test_runs_needed_as_cohen_tabulates(effect, runs):
    assert runs_needed(effect, (1.0, 1.0)) == runs


@pytest.mark.parametrize("sds", [(1.0,), (0.0,), (1.0, 1.0), (0.0, 0.0)])
def test_none_for_no_difference(sds):
    assert runs_needed(0.0, sds) is None


def test_none_when_a_million_are_too_few():
    assert runs_needed(1e-4, (1.0,)) is None


@pytest.mark.parametrize("sds", [(0.0,), (0.0, 0.0), (1e-9,), (1e-9, 0.0)])
def test_two_runs_without_noise(sds):
    assert runs_needed(1.0, sds) == 2


@pytest.mark.parametrize("shift", [*np.linspace(0.1, 4, 5), *np.linspace(5, 24, 20)])
def test_power_grows_with_the_difference(shift):
    assert power(shift, (1.0,), 2) < power(shift + 0.2, (1.0,), 2) <= 1
