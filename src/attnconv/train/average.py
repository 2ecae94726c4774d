"""An exponential moving average of the weights, which often scores better than the weights themselves.

Source: Polyak averaging as the training of EfficientNet and timm have it; the decay grows with the steps, so that the
first ones do not drag the start along. Buffers are not averaged: the statistics of batch norm and the vectors of
spectral norm stay those of the trained weights.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from attnconv.signals import interrupts_held


class WeightAverage:
    """The average of ``model``'s parameters with ``decay``, the part that a step leaves of what was before."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.names = [name for name, _ in model.named_parameters()]
        self.weights: list[Tensor] = list(model.parameters())
        self.averages = [weight.detach().clone() for weight in self.weights]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after ``step`` steps, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.averages, self.weights, 1 - decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """In the block the model has the averages for weights."""
        trained = [weight.detach().clone() for weight in self.weights]
        try:
            self._put(self.averages)
            yield
        finally:
            with interrupts_held():
                self._put(trained)

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        torch._foreach_copy_(self.weights, values)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.averages, strict=True))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises KeyError if a parameter is missing."""
        for name, average in zip(self.names, self.averages, strict=True):
            average.copy_(state[name])
