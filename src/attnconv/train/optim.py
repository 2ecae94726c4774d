"""Optimisers, schedules of learning rate and momentum, and the average of the weights.

A schedule is a pure function of the step, so that a resumed run needs no scheduler's state. ``step`` is the number of
optimiser steps already taken, 0 to ``total_steps`` - 1; ``peak`` is the largest rate; ``warmup`` is the fraction of the
steps, at least 0 and below 1, in which it rises.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RAdam, RMSprop
from torch.optim.swa_utils import get_ema_multi_avg_fn

from attnconv.layers.attention import no_weight_decay
from attnconv.signals import interrupts_held
from attnconv.train.config import RunConfig

# Second beta and eps of SimpleSelfAttention's published runs, and of the leaderboard's; RMSprop shares both here.
SMOOTHING = 0.99
EPS = 1e-6
LOOKAHEAD_EVERY = 6  # steps of Ranger
LOOKAHEAD_SHARE = 0.5  # of the way from the slow weights to the fast ones
FLAT = 0.75  # of the steps, in which flat_cosine does not move


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two parameter groups: weights that decay, and those of `no_weight_decay`."""
    names = no_weight_decay(model)
    decayed, spared = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (spared if name in names else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]


def set_momentum(optimizer: Optimizer, momentum: float) -> None:
    """Give every parameter group this momentum; of the adaptive optimisers it is the first beta."""
    for group in optimizer.param_groups:
        if "betas" in group:
            group["betas"] = (momentum, *group["betas"][1:])
        else:
            group["momentum"] = momentum


def build_optimizer(model: nn.Module, config: RunConfig) -> Optimizer:
    """The optimiser that ``config`` names.

    AdamW, RAdam and Ranger decay the weights themselves; for SGD, Adam and RMSprop decay is a term of the gradient.
    """
    groups, lr, momentum = decay_groups(model, config.weight_decay), config.lr, config.first_momentum
    adaptive: dict[str, Any] = {"lr": lr, "betas": (momentum, SMOOTHING), "eps": EPS}
    match config.optimizer:
        case "sgd":
            return SGD(groups, lr=lr, momentum=momentum)
        case "adam":
            return Adam(groups, **adaptive)
        case "adamw":
            return AdamW(groups, **adaptive)
        case "rmsprop":
            return RMSprop(groups, lr=lr, alpha=SMOOTHING, momentum=momentum, eps=EPS)
        case "radam":
            return RAdam(groups, **adaptive, decoupled_weight_decay=True)
        case "ranger":
            return Ranger(groups, **adaptive, decoupled_weight_decay=True)


class Ranger(RAdam):
    """RAdam whose weights are drawn back, every 6 steps, half of the way towards slow ones. Arguments: RAdam's.

    Sources: Liu et al. 2019, arXiv:1908.03265 (RAdam, torch's own); Zhang et al. 2019, arXiv:1907.08610 (Lookahead);
    the two together as fastai has them. timm's Lookahead is not used: its slow weights begin at the first look ahead
    and not where training does.

    Memory: a copy of the weights more than RAdam. The slow weights are part of its state, so that a state dict holds
    all that it goes on from.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        parameters = [p for group in self.param_groups for p in group["params"]]
        starts = [(p, p.detach().clone()) for p in parameters if p not in self.state]
        loss = super().step(closure)
        for p, start in starts:
            if p in self.state:  # it has a gradient
                self.state[p]["slow"] = start
        for p in parameters:
            state = self.state.get(p)
            if state and int(state["step"]) % LOOKAHEAD_EVERY == 0:
                p.copy_(state["slow"].lerp_(p, LOOKAHEAD_SHARE))
        return loss


class WeightAverage:
    """An exponential moving average of ``model``'s parameters; ``decay`` is the part that a step leaves of it.

    Source: Polyak averaging as the training of EfficientNet and timm have it; the decay grows with the steps, so that
    the first ones do not drag the start along. Buffers are not averaged: the statistics of batch norm and the vectors
    of spectral norm stay those of the trained weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.names = [name for name, _ in model.named_parameters()]
        self.weights: list[Tensor] = list(model.parameters())
        self.averages = [weight.detach().clone() for weight in self.weights]

    def update(self, step: int) -> None:
        """Take in the weights after ``step`` steps, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(self.averages, self.weights, step)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the model the averages as its weights inside the block."""
        trained = [weight.detach().clone() for weight in self.weights]
        try:
            self._put(self.averages)
            yield
        finally:
            with interrupts_held():
                self._put(trained)

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        for weight, value in zip(self.weights, values, strict=True):
            weight.copy_(value)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.averages, strict=True))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises KeyError if a parameter is missing."""
        for name, average in zip(self.names, self.averages, strict=True):
            average.copy_(state[name])


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
