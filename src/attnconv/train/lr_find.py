"""Learning-rate range test: a short run in which the rate grows from step to step, and what its loss suggests.

Source: Smith 2017, arXiv:1506.01186 (the range test). Departures: the steps are a number of their own, whatever epochs
a run would have; model, optimiser and random numbers end as they began.
"""

import copy
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from attnconv import checks
from attnconv.train.config import RunConfig
from attnconv.train.device import Engine
from attnconv.train.evaluate import Loader
from attnconv.train.progress import tracked
from attnconv.train.step import clip_gradients, compute_gradients, drop_gradients, hold_norms

SMOOTHING = 0.9  # of the running mean of the loss
DIVERGED = 4.0  # times the least smoothed loss
FEWEST = 10  # steps
BEGINNING = 10  # one in so many steps is too early to be the steepest


@dataclass(frozen=True)
class LrCurve:
    """The learning rate and the loss of each step, and what the curve suggests.

    ``steepest`` is where the smoothed loss falls fastest over the logarithm of the learning rate, after the first tenth
    of the steps; ``valley`` lies two thirds down the longest fall. Both are None where the loss never falls.
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    steepest: float | None
    valley: float | None
    diverged: bool  # before the largest learning rate was reached

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def find_lr(
    engine: Engine,
    config: RunConfig,
    loader: Loader,
    *,
    taken_over: Collection[str] = (),
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    progress: bool = True,
) -> LrCurve:
    """Train ``engine``'s network on ``loader``'s batches with a learning rate that grows from ``low`` to ``high``.

    The steps are those of a run of ``config`` in one process: its precision, memory format, compiler, parts of a batch,
    smoothing of labels and clipping; no average of weights. Stops early where the loss is not finite or four times its
    least. Batches begin again when an epoch's are used up.

    Raises:
        InputError: ``low`` and ``high`` are not positive and in this order, there are fewer than 10 steps, or the loss
            is not finite from the first step on.
    """
    if not 0 < checks.number("low", low) < checks.number("high", high):
        raise checks.InputError(f"low and high must be positive and in this order, got {low} and {high}")
    checks.integer("steps", steps, at_least=FEWEST)
    model, optimizer, precision = engine.bare, engine.optimizer, engine.fabric.strategy.precision
    before = copy.deepcopy((model.state_dict(), optimizer.optimizer.state_dict(), precision.state_dict()))
    training = {module: module.training for module in model.modules()}
    lrs = [low * (high / low) ** (i / (steps - 1)) for i in range(steps)]
    losses: list[float] = []
    with torch.random.fork_rng():
        try:
            engine.model.train()
            if config.freeze_epochs:
                hold_norms(model, taken_over)
            batches = tracked(_endless(loader), total=steps, text="learning rate", shown=progress)
            for lr, (images, labels) in zip(lrs, batches, strict=False):
                for group in optimizer.param_groups:
                    group["lr"] = lr
                sums = compute_gradients(engine, config, images, labels, 1 / len(labels))
                losses.append(sums[0].item() / len(labels))
                if _has_diverged(losses):
                    break
                if config.freeze_epochs:
                    drop_gradients(model, taken_over)
                clip_gradients(engine, config)
                optimizer.step()
                optimizer.zero_grad()
        finally:
            optimizer.zero_grad()
            model.load_state_dict(before[0])
            optimizer.optimizer.load_state_dict(before[1])
            precision.load_state_dict(before[2])
            for module, mode in training.items():
                module.training = mode
    diverged = _has_diverged(losses)
    if diverged and not math.isfinite(losses[-1]):
        losses.pop()
    if not losses:
        raise checks.InputError(f"the loss is not finite at the least learning rate, {low:g}: give a smaller low")
    return curve(lrs[: len(losses)], losses, diverged=diverged)


def curve(lrs: Sequence[float], losses: Sequence[float], *, diverged: bool) -> LrCurve:
    """Return the curve of such a run, and what it suggests."""
    means = smoothed(losses)
    least = min(range(len(means)), key=means.__getitem__)
    first = len(means) // BEGINNING  # before it, a mean of so few losses moves with each of them
    # The learning rates are spaced evenly in the logarithm.
    slopes = [means[i + 1] - means[i] for i in range(first, least)]
    fall = _longest_fall(means)
    return LrCurve(
        lrs=tuple(lrs),
        losses=tuple(losses),
        smoothed=tuple(means),
        steepest=lrs[first + slopes.index(min(slopes))] if slopes else None,
        valley=lrs[fall[len(fall) * 2 // 3]] if len(fall) > 2 else None,
        diverged=diverged,
    )


def smoothed(losses: Sequence[float]) -> list[float]:
    """Running means, each loss weighing SMOOTHING times as much as the next, without the pull of a start at zero."""
    means, mean = [], 0.0
    for i, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        means.append(mean / (1 - SMOOTHING**i))
    return means


def _has_diverged(losses: Sequence[float]) -> bool:
    if losses and not math.isfinite(losses[-1]):
        return True
    means = smoothed(losses)
    return bool(means) and means[-1] > DIVERGED * min(means)


def _longest_fall(values: Sequence[float]) -> list[int]:
    """Indices of the longest subsequence in which each value is below the one before."""
    length, previous = [1] * len(values), [-1] * len(values)
    for i in range(len(values)):
        for j in range(i):
            if values[j] > values[i] and length[j] + 1 > length[i]:
                length[i], previous[i] = length[j] + 1, j
    i = max(range(len(values)), key=length.__getitem__)
    fall = []
    while i >= 0:
        fall.append(i)
        i = previous[i]
    return fall[::-1]


def _endless(loader: Loader) -> Iterator[tuple[Tensor, Tensor]]:
    epoch = 0
    while True:
        found = False
        for images, labels in loader.epoch(epoch):
            if len(labels):
                found = True
                yield images, labels
        if not found:
            raise checks.InputError(f"epoch {epoch + 1} brought none of {loader.num_samples} training images")
        epoch += 1
