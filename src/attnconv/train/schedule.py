"""Learning rate and momentum as pure functions of the step, so that a resumed run needs no scheduler's state.

``step`` is the number of optimiser steps already taken, 0 to ``total_steps`` - 1; ``peak`` is the largest rate;
``warmup`` is the fraction of the steps, at least 0 and below 1, in which it rises.
"""

import math

FLAT = 0.75  # of the steps, in which flat_cosine does not move


def one_cycle(step: int, total_steps: int, *, peak: float, warmup: float) -> float:
    """Half a cosine from peak/10 up to peak, then half a cosine down to 0, which the end of the run would reach.

    Source: Smith and Topin 2017, arXiv:1708.07120, with fastai's cosines.
    """
    rise = warmup * total_steps
    if step < rise:
        return peak / 10 + (peak - peak / 10) * _rise(step, rise)
    return peak * _fall(step, rise, total_steps)


def one_cycle_momentum(step: int, total_steps: int, *, base: float, largest: float, warmup: float) -> float:
    """Return the momentum opposite to `one_cycle`: from ``largest`` down to ``base`` at the peak, and back.

    Source: fastai 1.0's one-cycle, which moves Adam's first beta so, whatever momentum it is given.
    """
    rise = warmup * total_steps
    share = _rise(step, rise) if step < rise else _fall(step, rise, total_steps)
    return largest - (largest - base) * share


def cosine(step: int, total_steps: int, *, peak: float, warmup: float) -> float:
    """A straight line from 0 up to peak, then half a cosine down to 0, which the end of the run would reach.

    Source: Loshchilov and Hutter 2016, arXiv:1608.03983, without restarts.
    """
    rise = warmup * total_steps
    if step < rise:
        return peak * step / rise
    return peak * _fall(step, rise, total_steps)


def flat_cosine(step: int, total_steps: int, *, peak: float, warmup: float) -> float:
    """``peak`` for three quarters of the steps, without warm-up, then half a cosine down to 0.

    Source: fastai's fit_flat_cos, with its share of flat steps; made for optimisers that warm up by themselves.
    """
    start = FLAT * total_steps
    return peak if step < start else peak * _fall(step, start, total_steps)


def constant(step: int, total_steps: int, *, peak: float, warmup: float) -> float:
    """``peak`` at every step: no warm-up either."""
    return peak


def _rise(step: int, rise: float) -> float:
    return (1 - math.cos(math.pi * step / rise)) / 2


def _fall(step: int, rise: float, total_steps: int) -> float:
    return (1 + math.cos(math.pi * (step - rise) / (total_steps - rise))) / 2


SCHEDULES = {"one-cycle": one_cycle, "cosine": cosine, "flat-cosine": flat_cosine, "constant": constant}
