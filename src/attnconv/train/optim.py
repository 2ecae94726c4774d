"""Optimisers, schedules of learning rate and momentum, and the average of the weights.

A schedule is a pure function of the step, so a resumed run needs no scheduler state. ``step`` counts the steps done, 0
to ``total_steps`` - 1; ``peak`` is the largest rate; ``warmup`` is the share of the steps, at least 0 and below 1, in
which the rate rises.
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

# Second beta and eps of SimpleSelfAttention's published runs and of the leaderboard's; RMSprop takes both.
SMOOTHING = 0.99
EPS = 1e-6
LOOKAHEAD_EVERY = 6  # steps of Ranger
LOOKAHEAD_SHARE = 0.5  # of the way from the slow weights to the fast ones
FLAT = 0.75  # share of the steps in which flat_cosine is constant


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two parameter groups: weights that decay, and those of `no_weight_decay`, which do not."""
    names = no_weight_decay(model)
    decayed, spared = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (spared if name in names else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]


def set_momentum(optimizer: Optimizer, momentum: float) -> None:
    """Set the momentum of every parameter group, which is the first beta of the adaptive optimisers."""
    for group in optimizer.param_groups:
        if "betas" in group:
            group["betas"] = (momentum, *group["betas"][1:])
        else:
            group["momentum"] = momentum


def build_optimizer(model: nn.Module, config: RunConfig) -> Optimizer:
    """Return the optimiser of ``config``.

    AdamW, RAdam and Ranger decay the weights directly; for SGD, Adam and RMSprop decay is a term of the gradient.
    """
    groups, lr = decay_groups(model, config.weight_decay), config.lr
    momentum = config.momentum if config.max_momentum is None else config.max_momentum  # of the first step
    assert momentum is not None
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
    """RAdam with Lookahead: every 6 steps the weights move half of the way towards slow weights. Arguments: RAdam's.

    Sources: Liu et al. 2019, arXiv:1908.03265 (RAdam, torch's own); Zhang et al. 2019, arXiv:1907.08610 (Lookahead);
    fastai (the combination). Departure from timm's Lookahead: the slow weights start where training starts, not at the
    first look ahead.

    Memory: a copy of the weights more than RAdam. The slow weights are part of the state dict.
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
    """Exponential moving average of ``model``'s parameters.

    Source: Polyak averaging as in EfficientNet's training and timm; the decay grows with the steps up to ``decay``, so
    that the initial weights fade quickly. Buffers are not averaged: batch norm's statistics and spectral norm's vectors
    stay those of the trained weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.names = [name for name, _ in model.named_parameters()]
        self.weights: list[Tensor] = list(model.parameters())
        self.averages = [weight.detach().clone() for weight in self.weights]

    def update(self, step: int) -> None:
        """Add the weights after ``step`` steps, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(self.averages, self.weights, step)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Use the averages as the model's weights inside the block."""
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
        """Load averages by name; KeyError if a parameter is missing."""
        for name, average in zip(self.names, self.averages, strict=True):
            average.copy_(state[name])


def one_cycle(step: int, total_steps: int, *, peak: float, warmup: float) -> float:
    """Return the rate of half a cosine from peak/10 up to peak, then half a cosine down to 0 at the end of the run.

    Source: Smith and Topin 2017, arXiv:1708.07120, with fastai's cosines.
    """
    rise = warmup * total_steps
    if step < rise:
        return peak / 10 + (peak - peak / 10) * _rise(step, rise)
    return peak * _fall(step, rise, total_steps)


def one_cycle_momentum(step: int, total_steps: int, *, base: float, largest: float, warmup: float) -> float:
    """Return the momentum opposite to `one_cycle`: from ``largest`` down to ``base`` at the peak, and back.

    Source: fastai 1.0's one-cycle, which cycles Adam's first beta, too.
    """
    rise = warmup * total_steps
    share = _rise(step, rise) if step < rise else _fall(step, rise, total_steps)
    return largest - (largest - base) * share


def cosine(step: int, total_steps: int, *, peak: float, warmup: float) -> float:
    """Return the rate of a straight line from 0 up to peak, then half a cosine down to 0 at the end of the run.

    Source: Loshchilov and Hutter 2016, arXiv:1608.03983, without restarts.
    """
    rise = warmup * total_steps
    if step < rise:
        return peak * step / rise
    return peak * _fall(step, rise, total_steps)


def flat_cosine(step: int, total_steps: int, *, peak: float, warmup: float) -> float:
    """Return ``peak`` for three quarters of the steps, without warm-up, then half a cosine down to 0.

    Source: fastai's fit_flat_cos, with its share of flat steps; for optimisers that warm up by themselves.
    """
    start = FLAT * total_steps
    return peak if step < start else peak * _fall(step, start, total_steps)


def constant(step: int, total_steps: int, *, peak: float, warmup: float) -> float:
    """Return ``peak``, without warm-up."""
    return peak


def _rise(step: int, rise: float) -> float:
    return (1 - math.cos(math.pi * step / rise)) / 2


def _fall(step: int, rise: float, total_steps: int) -> float:
    return (1 + math.cos(math.pi * (step - rise) / (total_steps - rise))) / 2


SCHEDULES = {"one-cycle": one_cycle, "cosine": cosine, "flat-cosine": flat_cosine, "constant": constant}
