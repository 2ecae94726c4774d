"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler's state.

``step`` is the number of optimiser steps already taken, 0 to ``total_steps`` - 1; ``peak`` is the largest rate;
``warmup`` is the fraction of the steps, at least 0 and below 1, in which it rises.
"""

import math


def one_cycle(step: int, total_steps: int, *, peak: float, warmup: float) -> float:
    """Half a cosine from peak/10 up to peak, then half a cosine down to 0, which the end of the run would reach.

    Source: Smith and Topin 2017, arXiv:1708.07120, with fastai's cosines.
    """
    rise = warmup * total_steps
    if step < rise:
        return peak / 10 + (peak - peak / 10) * (1 - math.cos(math.pi * step / rise)) / 2
    return peak * _fall(step, rise, total_steps)


def cosine(step: int, total_steps: int, *, peak: float, warmup: float) -> float:
    """A straight line from 0 up to peak, then half a cosine down to 0, which the end of the run would reach.

    Source: Loshchilov and Hutter 2016, arXiv:1608.03983, without restarts.
    """
    rise = warmup * total_steps
    if step < rise:
        return peak * step / rise
    return peak * _fall(step, rise, total_steps)


def constant(step: int, total_steps: int, *, peak: float, warmup: float) -> float:
    """``peak`` at every step: no warm-up either."""
    return peak


def _fall(step: int, rise: float, total_steps: int) -> float:
    return (1 + math.cos(math.pi * (step - rise) / (total_steps - rise))) / 2


SCHEDULES = {"one-cycle": one_cycle, "cosine": cosine, "constant": constant}
