"""What a run may note of its network beside losses and scores; the trainer itself knows nothing of any layer."""

from typing import Any, Protocol

from torch import Tensor, nn

from attnconv.train.loader import Loader


class Observer(Protocol):
    """Called in evaluation mode, without gradients, under the run's precision; in the first process alone."""

    def epoch(self, model: nn.Module, images: Tensor) -> dict[str, float]:
        """Return columns for an epoch's row of metrics.csv, from some validation images (B, C, H, W)."""
        ...

    def end(self, model: nn.Module, loader: Loader) -> dict[str, Any]:
        """Return plain values for result.json, from the network of best.pt and the validation images."""
        ...
