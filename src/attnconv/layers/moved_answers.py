"""The distance by which the answers of a network move when something in it is changed.

Letters: B batch, K classes, H rows, W columns.
"""

import torch
from torch import Tensor


class MovedAnswers:
    """Compare the logits (B, K) or (B, K, H, W) of two networks, over any number of batches."""

    def __init__(self) -> None:
        self._moved = self._norm = 0.0  # sums of squares
        self._changed = self._count = 0

    def add(self, before: Tensor, after: Tensor) -> None:
        """Count in a batch of logits ``before`` and ``after`` the change."""
        self._moved += (after.double() - before.double()).square().sum().item()
        self._norm += before.double().square().sum().item()
        self._changed += int((after.argmax(1) != before.argmax(1)).sum())
        self._count += before.argmax(1).numel()

    @property
    def logits_moved(self) -> float:
        """The norm of the difference, as a share of the norm of the logits before."""
        return torch.tensor(self._moved / max(self._norm, 1e-300)).sqrt().item()

    @property
    def predictions_changed(self) -> float:
        """Percent of the images, or of their pixels, whose largest logit is another one."""
        return 100 * self._changed / max(self._count, 1)
