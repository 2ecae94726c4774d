"""Simulated studies in which attention changes nothing, 500 and, marked slow, 2,000: how often do they say it does?"""

import numpy as np
import pytest
from scipy import stats
from study.run_records import arm_records

from attnconv.study.comparison import compare
from attnconv.study.statistics import holm, permutation

STUDIES = 2000
ARMS = 3


def likely(share: float, studies: int = STUDIES) -> tuple[float, float]:
    """Return the limits of 999 in 1,000 binomial counts."""
    return stats.binom.interval(0.999, studies, share)


def p_values(seeds: int, noise, *, arms: int, studies: int = STUDIES) -> np.ndarray:
    """(studies, arms): each arm against the one baseline of its study, which shares an effect of the seed."""
    generator = np.random.default_rng(0)
    found = np.empty((studies, arms))
    for study in range(studies):
        common = generator.normal(70, 1, seeds)
        baseline = dict(enumerate(common + noise(generator, seeds)))
        for arm in range(arms):
            scores = common + noise(generator, seeds)
            test = permutation(dict(enumerate(scores)), baseline)
            assert test is not None
            found[study, arm] = test.p
    return found


@pytest.fixture(scope="module", params=[500, pytest.param(STUDIES, marks=pytest.mark.slow)])
def paired(request) -> np.ndarray:
    """8 seeds, noise with heavy tails: no test that believes in the normal distribution would be exact."""
    return p_values(8, lambda generator, n: generator.standard_t(3, n), arms=ARMS, studies=request.param)


@pytest.mark.parametrize("arm", range(ARMS))
def test_one_comparison_raises_five_percent_false_alarms(paired, arm):
    alarms = np.sum(paired[:, arm] <= 0.05)
    for share in (0.05, 12 / 256):  # the second is exact: p comes in steps of 2 / 256
        low, high = likely(share, len(paired))
        assert low <= alarms <= high


def test_a_study_is_tested_as_these_are():
    """`compare` pairs, tests and adjusts as the simulations above do by hand."""
    generator = np.random.default_rng(3)
    for _ in range(5):
        common = generator.normal(70, 1, 8)
        scores = {arm: common + generator.standard_t(3, 8) for arm in ("plain", "a", "b", "c")}
        found = compare(
            [record for arm, values in scores.items() for record in arm_records(arm, list(values))],
            baseline="plain",
            chance=10,
        )
        baseline, *others = (dict(enumerate(values)) for values in scores.values())
        ps = [permutation(other, baseline).p for other in others]
        assert [row.test.permutation.p for row in found.rows[1:]] == ps
        assert [row.test.holm_p for row in found.rows[1:]] == holm(ps)


def test_without_holm_three_comparisons_raise_too_many(paired):
    assert np.sum(paired.min(axis=1) <= 0.05) > likely(0.05, len(paired))[1]


def test_with_holm_the_whole_table_raises_no_more_than_five_percent(paired):
    alarms = sum(min(holm(list(study))) <= 0.05 for study in paired)
    assert likely(0.02, len(paired))[0] <= alarms <= likely(0.05, len(paired))[1]


def test_five_seeds_never_alarm():
    found = p_values(5, lambda g, n: g.normal(0, 1, n), arms=1, studies=100)
    assert found.min() == 0.0625
