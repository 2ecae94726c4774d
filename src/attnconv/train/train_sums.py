"""The training loss and accuracy of the epoch so far, and the watch over the losses.

Letters: B batch, K classes.
"""

from pathlib import Path

import torch
from torch import Tensor

from attnconv.train.divergence import require_finite


class TrainSums:
    """Sums over the images of an epoch. Steps wait on the device until ``flush``: reading each would stall it.

    The sums are Python floats, added step by step in order, so that they do not depend on when ``flush`` was called.
    """

    def __init__(self, loss: float = 0.0, hits: float = 0.0, images: int = 0, seconds: float = 0.0) -> None:
        self.loss, self.hits, self.images, self.seconds = loss, hits, images, seconds
        self._waiting: list[tuple[int, float, int, Tensor]] = []

    def add(self, step: int, lr: float, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Note the mean ``loss`` and the logits (B, K) of ``step``, counted from 1, for labels (B,).

        Of labels (B, K), shares of mixed images, the class with the largest share counts.
        """
        if labels.ndim == 2:
            labels = labels.argmax(1)
        hits = (logits.detach().argmax(1) == labels).sum()
        self._waiting.append((step, lr, len(labels), torch.stack([loss.detach().float(), hits.float()])))

    def flush(self, checkpoint: Path) -> None:
        """Add what waits to the sums.

        Raises:
            InputError: a loss is not finite; it names the first such step, and ``checkpoint`` if that exists.
        """
        waiting, self._waiting = self._waiting, []
        values = torch.stack([pair for *_, pair in waiting]).tolist() if waiting else []
        for (step, lr, images, _), (loss, hits) in zip(waiting, values, strict=True):
            require_finite("the loss", loss, step=step, lr=lr, checkpoint=checkpoint)
            self.loss += loss * images
            self.hits += hits
            self.images += images

    def to_dict(self) -> dict[str, float]:
        """The sums as TrainSums takes them; call ``flush`` first."""
        assert not self._waiting
        return {"loss": self.loss, "hits": self.hits, "images": self.images, "seconds": self.seconds}

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
