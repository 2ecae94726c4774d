"""How many runs an arm would need, so that a t-test sees a difference with 80 % power at 5 %.

Two-sided, by the noncentral t distribution: paired by seed with one standard deviation, that of the pairs'
differences; unpaired with one each, by Welch's test of two arms of the same size. It takes the difference that it is
given as the true one: an observed difference is a guess, and one that was picked for being large is too large a guess.
"""

import math

from scipy import stats

from attnconv.study.intervals import welch_freedom

ALPHA = 0.05
POWER = 0.8
MOST = 1_000_000  # beyond that the answer is none


def power(difference: float, sds: tuple[float, ...], runs: int) -> float:
    """The chance that the test of ``runs`` runs an arm comes out below ALPHA.

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
    """The fewest runs an arm, at least 2, with POWER; None if the difference is 0 or a million runs are too few."""
    if difference == 0:
        return None
    enough = 2
    while power(difference, sds, enough) < POWER:
        enough *= 2
        if enough > MOST:
            return None
    too_few = enough // 2 if enough > 2 else 1
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if power(difference, sds, middle) < POWER:
            too_few = middle
        else:
            enough = middle
    return enough
