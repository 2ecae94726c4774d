import numpy as np
import pytest
from scipy import stats

from attnconv.study.statistics import power, runs_needed


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
