"""Scores of networks that give each pixel a class.

Letters: B batch, K classes, H rows, W columns.
"""

from torch import Tensor


def confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """How many pixels of each class were called what: logits (B, K, H, W), labels (B, H, W) -> (K, K) int64.

    Rows are the classes that pixels have, columns those that they were given.
    """
    classes = logits.shape[1]
    pairs = labels * classes + logits.argmax(1)  # (B, H, W)
    return pairs.flatten().bincount(minlength=classes**2).view(classes, classes)


def mean_iou(counts: Tensor) -> float:
    """Mean over classes of intersection over union, in percent, from the counts (K, K) of all images together.

    A class that no pixel has and none was given is left out.
    """
    both = counts.diagonal()
    either = counts.sum(0) + counts.sum(1) - both
    there = either > 0
    return 100 * (both[there] / either[there]).double().mean().item()
