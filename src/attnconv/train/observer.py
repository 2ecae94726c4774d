"""A network observed beside its losses and scores, by somebody who knows its layers; the trainer does not."""

from typing import Any, Protocol

from torch import Tensor, nn

from attnconv.train.loader import Loader


class Observer(Protocol):
    """Called in evaluation mode, without gradients, under the run's precision.

    ``epoch`` is called in the first process, ``end`` in runs of one process alone.
    """

    def epoch(self, model: nn.Module, images: Tensor) -> dict[str, float]:
        """Return columns for an epoch's row of metrics.csv, from some validation images (B, C, H, W)."""
        ...

    def end(self, model: nn.Module, loader: Loader) -> dict[str, Any]:
        """Return plain values for result.json, from the network of best.pt and the validation images."""
        ...
