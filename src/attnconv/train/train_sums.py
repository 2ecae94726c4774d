"""The training loss and accuracy of the epoch so far, and the watch over the losses."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from attnconv.train.divergence import require_finite


class TrainSums:
    """Sums over the images of an epoch. Steps wait on the device until ``flush``: reading each would stall it.

    The sums are Python floats, added step by step in order, so that they do not depend on when ``flush`` was called.
    """

    def __init__(
        self, loss: float = 0.0, hits: float = 0.0, images: int = 0, seconds: float = 0.0, waited: float = 0.0
    ) -> None:
        self.loss, self.hits, self.images = loss, hits, images
        self.seconds, self.waited = seconds, waited  # of the steps, and those of them spent waiting for the loader
        self._waiting: list[tuple[int, float, Tensor]] = []

    def add(self, step: int, lr: float, sums: Tensor) -> None:
        """Note ``step``, counted from 1: ``sums`` (3,) are the sum of the losses, the hits and the images."""
        self._waiting.append((step, lr, sums))

    def flush(self, checkpoint: Path, total: Callable[[Tensor], Tensor] = lambda sums: sums) -> None:
        """Add what waits to the sums; ``total`` makes of the sums (N, 3) of N steps those of all processes.

        Raises:
            Diverged: a loss is not finite; it names the first such step, and ``checkpoint`` if that exists.
        """
        waiting, self._waiting = self._waiting, []
        values = total(torch.stack([sums for *_, sums in waiting])).tolist() if waiting else []
        for (step, lr, _), (loss, hits, images) in zip(waiting, values, strict=True):
            require_finite("the loss", loss, step=step, lr=lr, checkpoint=checkpoint)
            self.loss += loss
            self.hits += hits
            self.images += int(images)

    def to_dict(self) -> dict[str, float]:
        """The sums as TrainSums takes them; call ``flush`` first."""
        assert not self._waiting
        return {name: getattr(self, name) for name in ("loss", "hits", "images", "seconds", "waited")}

    @property
    def mean_loss(self) -> float:
        return self.loss / max(self.images, 1)

    @property
    def top1(self) -> float:
        """Percent."""
        return 100 * self.hits / max(self.images, 1)

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds else 0.0
