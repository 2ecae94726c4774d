"""Stopping a run whose numbers are no longer finite, before anything of it is saved."""

import math
from pathlib import Path

import torch
from torch import nn

from attnconv import checks


def require_finite(what: str, value: float, *, step: int, lr: float, checkpoint: Path) -> None:
    """Pass if ``value`` is finite. ``step`` counts from 1, as metrics.csv does; ``checkpoint`` need not exist.

    Raises:
        InputError: naming the step, its learning rate and the last good checkpoint.
    """
    if not math.isfinite(value):
        good = checkpoint if checkpoint.exists() else "none yet"
        raise checks.InputError(
            f"{what} is {value} at step {step} (lr {lr:.3g}): give a smaller lr; last good checkpoint: {good}"
        )


@torch.no_grad()
def largest_value(model: nn.Module) -> float:
    """The largest value in the weights and statistics; inf or nan if any is: a step can spoil them at a finite loss."""
    weights = [p.abs().max() for p in model.parameters() if p.numel()]
    statistics = [b.max() for b in model.buffers() if b.numel()]  # without abs, because a mask may well hold -inf
    return torch.stack([value.float() for value in weights + statistics]).max().item()
