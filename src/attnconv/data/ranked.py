"""The classes that a network takes an image for."""

from collections.abc import Sequence

from torch import Tensor


def ranked_classes(logits: Tensor, classes: Sequence[str], count: int) -> list[tuple[str, float]]:
    """The ``count`` most likely classes, or all if they are fewer, by ``logits`` (K,): names and probabilities."""
    likely = logits.float().softmax(-1).topk(min(count, len(classes)))
    ranked = zip(likely.indices.tolist(), likely.values.tolist(), strict=True)
    return [(classes[int(index)], chance) for index, chance in ranked]
