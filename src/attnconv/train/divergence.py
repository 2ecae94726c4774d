"""Stopping a run whose numbers are no longer finite, before anything of it is saved."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from attnconv import checks


class Diverged(checks.InputError):
    """A loss or a weight is not finite after ``step`` steps."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


def require_finite(what: str, value: float, *, step: int, lr: float, checkpoint: Path) -> None:
    """Pass if ``value`` is finite. ``step`` counts from 1, as metrics.csv does; ``checkpoint`` need not exist.

    Raises:
        Diverged: naming the step, its learning rate and the last good checkpoint.
    """
    if not math.isfinite(value):
        good = checkpoint if checkpoint.exists() else "none yet"
        raise Diverged(
            f"{what} is {value} at step {step} (lr {lr:.3g}): give a smaller lr; last good checkpoint: {good}", step
        )


@torch.no_grad()
def largest_value(model: nn.Module) -> float:
    """The largest value in the weights and statistics; inf or nan if any is: a step can spoil them at a finite loss."""
    weights = [p.abs().max() for p in map(own_part, model.parameters()) if p.numel()]
    statistics = [b.max() for b in model.buffers() if b.numel()]  # without abs, because a mask may well hold -inf
    return torch.stack([value.float() for value in weights + statistics]).max().item()


def own_part(tensor: Tensor) -> Tensor:
    """What this process has of a tensor that is shared out over processes; any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
