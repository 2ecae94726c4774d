"""Masks of batches whose images are padded to one size.

A mask is bool, True at cells of the image. A cell of a map is valid if the centre of its window is. A ring of padding
around the map counts as a ring around each image: its cells are valid as the nearest cell of the image.

Letters: B batch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from attnconv import checks
from attnconv.ops.arguments import require_mask

# Sizes of the images (B, axes) and of the padded batch; for all threads, since a backward pass on a GPU has its own.
_current: tuple[Tensor, tuple[int, ...]] | None = None


@contextmanager
def valid_sizes(sizes: Tensor | Sequence[Sequence[int]], padded_size: Sequence[int] | None = None) -> Iterator[None]:
    """Exclude the padding of a batch from attention inside the ``with`` block, in all threads.

    timm's layers (`timm:NAME`) support no masks and are not affected.

    Each image lies at the start of its axes (top left), followed by padding. A layer derives its stride from the size
    of its map: the power of 2 that maps ``padded_size`` to it, else the ratio of both. Cell i of an axis is valid if
    stride * i lies in the image; this is the centre of its window if every convolution before is padded by half its
    window. A mask that is passed to a layer takes precedence.

    A backward pass that recomputes parts of the forward pass (torch.utils.checkpoint) must run inside the block too;
    otherwise torch raises CheckpointError.

    Args:
        sizes: rows and columns of each image, (B, axes), in pixels of the network's input.
        padded_size: rows and columns of that input; the largest of ``sizes`` along each axis if None.
    Raises:
        ValueError: an image is larger than ``padded_size``; in a layer, if its batch or its axes do not match
            ``sizes``.
    """
    global _current
    table = torch.as_tensor(sizes)
    whole = not table.is_floating_point() and table.dtype != torch.bool
    if table.dim() != 2 or table.numel() == 0 or not whole or int(table.min()) < 0:
        raise checks.InputError(f"sizes must be (B, axes), whole numbers from 0 on, got {sizes}")
    table = table.long()
    largest = tuple(table.amax(0).tolist())
    padded = largest
    if padded_size is not None:
        padded = checks.per_axis("padded_size", tuple(padded_size), len(largest), at_least=1)
    if any(n > m for n, m in zip(largest, padded, strict=True)):
        raise checks.InputError(f"padded_size={padded} is smaller than the largest of sizes, {largest}")
    before, _current = _current, (table, padded)
    try:
        yield
    finally:
        _current = before


def input_mask(x: Tensor, mask: Tensor | None, layer: str) -> Tensor | None:
    """Return the mask (B, *map) of ``x`` (B, C, *map): ``mask``, else that of `valid_sizes`, else None."""
    if mask is not None:
        require_mask(mask, (x.shape[0], *x.shape[2:]), x.device, name=f"{layer}: mask", of="its input")
        return mask
    if _current is None:
        return None
    sizes, padded = _current
    if (x.shape[0], x.dim() - 2) != tuple(sizes.shape):
        raise checks.InputError(
            f"{layer}: valid_sizes holds {tuple(sizes.shape)} (images, axes), but the layer's input is {tuple(x.shape)}"
        )
    found = torch.ones((), dtype=torch.bool, device=x.device)
    for axis, (pixels, cells) in enumerate(zip(padded, x.shape[2:], strict=True)):
        step, parts = pixels_per_cell(pixels, cells)
        valid = (sizes[:, axis].to(x.device) * parts + step - 1) // step  # (B,)
        line = torch.arange(cells, device=x.device) < valid[:, None]  # (B, cells)
        found = found.unsqueeze(-1) & line[(slice(None), *[None] * axis)]
    return found


def pixels_per_cell(pixels: int, cells: int) -> tuple[int, int]:
    """Return the stride of a map with ``cells`` cells as a fraction: a power of 2 if one fits, else pixels / cells."""
    stride = 1
    while -(-pixels // stride) > max(cells, 1):
        stride *= 2
    return (stride, 1) if -(-pixels // stride) == cells else (pixels, cells)


def mask_at_centres(mask: Tensor | None, pairs: Sequence[tuple[int, int]], stride: Sequence[int] = ()) -> Tensor | None:
    """Return the mask of the map of `attention_input.at_centres`, at every ``stride``-th cell; None for None."""
    if mask is None:
        return None
    for axis, (left, right) in enumerate(pairs, 1):
        ring = max(left, 0) + max(right, 0)
        mask = mask.narrow(axis, max(-left, 0), mask.shape[axis] - max(-left, 0) - max(-right, 0))
        if ring:  # valid if the image is at most ``right`` cells before or ``left`` cells after
            mask = F.pad(mask, [0, 0] * (mask.dim() - 1 - axis) + [ring, ring]).unfold(axis, ring + 1, 1).any(-1)
    return strided(stride, mask)


def strided(stride: Sequence[int], x: Tensor) -> Tensor:
    """Return every ``stride``-th cell of ``x`` (..., *map) along each axis."""
    return x[(..., *(slice(None, None, s) for s in stride))]
