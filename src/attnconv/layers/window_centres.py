"""Padding of a convolution, and of the input whose cells at the centres of its windows a second convolution reads."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from attnconv import checks

Pairs = tuple[tuple[int, int], ...]  # (left, right) of each axis


def padding_pairs(padding: Any, stride: tuple[int, ...], reach: Sequence[int]) -> Pairs:
    """Return nn.Conv2d's ``padding`` as pairs; ``reach``: cells from a window's first to its last, an axis."""
    if isinstance(padding, str):
        if checks.one_of("padding", padding, ("same", "valid")) == "valid":
            return ((0, 0),) * len(stride)
        if stride != (1,) * len(stride):
            raise checks.InputError(f"padding='same' needs stride 1, got {stride}")
        return tuple((r // 2, r - r // 2) for r in reach)
    return tuple((p, p) for p in checks.per_axis("padding", padding, len(stride), at_least=0))


def centre_pairs(padding: Pairs, reach: Sequence[int], inner_reach: Sequence[int]) -> Pairs:
    """Return what to pad (or, below 0, to crop) so that windows of ``inner_reach`` sit where those of ``reach`` do.

    The centre of a window lies reach // 2 after its left end: padding beyond that is a ring of centres, and padding
    short of it leaves border cells out. A wider inner kernel needs its own reach around each centre.
    """
    return tuple(
        (left - r // 2 + q // 2, right - (r - r // 2) + (q - q // 2))
        for (left, right), r, q in zip(padding, reach, inner_reach, strict=True)
    )


def at_centres(x: Tensor, pairs: Pairs, padding_mode: str) -> Tensor:
    """Pad or crop ``x`` (B, C, *map) by ``pairs``, of `centre_pairs`."""
    amounts = [amount for pair in reversed(pairs) for amount in pair]  # F.pad wants the last axis first
    crop, ring = [min(a, 0) for a in amounts], [max(a, 0) for a in amounts]
    if any(crop):
        x = F.pad(x, crop)
    if any(ring):
        x = F.pad(x, ring, mode="constant" if padding_mode == "zeros" else padding_mode)
    return x
