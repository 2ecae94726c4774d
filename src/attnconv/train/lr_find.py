"""Learning-rate range test: a short run in which the rate grows from step to step, and the rates that it suggests.

Source: Smith 2017, arXiv:1506.01186 (the range test); fastai 2.8 (smoothing and suggestions). Departures: the network
is not restored; a loss that never falls suggests no "steepest" and no "valley".

Letters: L learning rates.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attnconv import checks
from attnconv.train.config import RunConfig
from attnconv.train.device import Engine
from attnconv.train.evaluate import Loader
from attnconv.train.progress import tracked
from attnconv.train.step import clip_gradients, compute_gradients, drop_gradients, hold_norms

SMOOTHING = 0.98  # of the running mean of the loss
DIVERGED = 4.0  # times the least smoothed loss
FEWEST = 10  # steps
BEGINNING, END = 10, 5  # the first tenth of the steps and the last five steps suggest nothing
WINDOW, BEND = 15, 0.005  # of "slide": steps, and the difference between the slopes at its ends


@dataclass(frozen=True)
class LrCurve:
    """Learning rate and loss of each step, and the suggestions; None where the curve gives none.

    Args:
        smoothed: running means of the losses.
        diverged: True if the test stopped before the largest learning rate.
        steepest: where the smoothed loss falls fastest over the logarithm of the learning rate.
        valley: halfway down the longest fall.
        minimum: a tenth of the learning rate with the least smoothed loss.
        slide: before the slope of the loss changes towards the end.
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    diverged: bool
    steepest: float | None = None
    valley: float | None = None
    minimum: float | None = None
    slide: float | None = None


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

    The steps are those of a run of ``config`` in one process, with the momentum of its first step and without its
    average of the weights. The test stops early if the loss is not finite or, smoothed, above four times its least. It
    takes more epochs if the batches run out. Network and optimiser are of no use afterwards; torch's random generators
    are restored.

    Raises:
        InputError: ``low`` and ``high`` are not positive and in this order, there are fewer than 10 steps, or the loss
            is not finite at the first step.
    """
    if not 0 < checks.number("low", low) < checks.number("high", high):
        raise checks.InputError(f"low and high must be positive and in this order, got {low} and {high}")
    checks.integer("steps", steps, at_least=FEWEST)
    lrs = [low * (high / low) ** (i / (steps - 1)) for i in range(steps)]
    losses: list[float] = []
    engine.model.train()
    if config.freeze_epochs:
        hold_norms(engine.bare, taken_over)
    batches = tracked(_endless(loader), total=steps, text="learning rate", shown=progress)
    with torch.random.fork_rng():
        for lr, (images, labels) in zip(lrs, batches, strict=False):
            for group in engine.optimizer.param_groups:
                group["lr"] = lr
            sums = compute_gradients(engine, config, images, labels, 1 / len(labels))
            losses.append(sums[0].item() / len(labels))
            if _has_diverged(losses):
                break
            if config.freeze_epochs:
                drop_gradients(engine.bare, taken_over)
            clip_gradients(engine, config)
            engine.optimizer.step()
            engine.optimizer.zero_grad()
    diverged = _has_diverged(losses)
    if diverged and not math.isfinite(losses[-1]):
        losses.pop()
    if not losses:
        raise checks.InputError(f"the loss is not finite at the least learning rate, {low:g}: give a smaller low")
    considered = slice(steps // BEGINNING, len(losses) - END)
    means = smoothed(losses)
    return LrCurve(
        lrs=tuple(lrs[: len(losses)]),
        losses=tuple(losses),
        smoothed=tuple(means.tolist()),
        diverged=diverged,
        **suggestions(np.array(lrs[: len(losses)])[considered], means[considered]),
    )


def suggestions(lrs: np.ndarray, losses: np.ndarray) -> dict[str, float]:
    """Return LrCurve's suggestions, by name, of smoothed losses (L,) at learning rates (L,) that grow evenly."""
    found = {}
    if len(lrs):
        found["minimum"] = lrs[losses.argmin()] / 10
    if len(lrs) > 1 and (falls := np.diff(losses)).min() < 0:
        found["steepest"] = lrs[falls.argmin()]
        found["valley"] = lrs[_middle_of_longest_fall(losses)]
    if (left := len(lrs) - 1 - WINDOW) >= 0:
        found["slide"] = lrs[left]
        slopes = np.gradient(losses)
        while left >= 0 and abs(slopes[left + WINDOW] - slopes[left]) > BEND:
            found["slide"] = lrs[left]
            left -= 1
    return {name: float(lr) for name, lr in found.items()}


def smoothed(losses: Sequence[float]) -> np.ndarray:
    """Return running means (L,) in which a loss weighs SMOOTHING times as much as the next one."""
    means, total = [], 0.0
    for i, loss in enumerate(losses, 1):
        total = SMOOTHING * total + (1 - SMOOTHING) * loss
        means.append(total / (1 - SMOOTHING**i))  # corrects for the start at zero
    return np.array(means)


def _has_diverged(losses: Sequence[float]) -> bool:
    if not losses:
        return False
    means = smoothed(losses)
    return not math.isfinite(losses[-1]) or bool(means[-1] > DIVERGED * means.min())


def _middle_of_longest_fall(losses: np.ndarray) -> int:
    """Return the index half the length before the end of the longest subsequence that falls."""
    lengths = np.ones(len(losses), dtype=int)
    for i in range(1, len(losses)):
        lengths[i] = 1 + max(lengths[:i][losses[:i] > losses[i]], default=0)
    end, longest = int(lengths.argmax()), int(lengths.max())
    return end - longest + longest // 3 + longest // 6


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
