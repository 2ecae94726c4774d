import numpy as np
import pytest
from scipy import stats

from attnconv.study import statistics
from attnconv.study.statistics import difference, estimate, holm, permutation, seeds_to_reach, shared_seeds, smallest_p


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
