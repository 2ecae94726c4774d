"""The map that attention inside a convolution reads: the input at the centres of the windows, halved, with positions.

Sources: the average over 3x3 cells at stride 2 as in Bello et al. 2019, arXiv:1904.09925, section 4.2; sine waves as in
Vaswani et al. 2017, arXiv:1706.03762, section 3.5, an equal share of the channels for each axis; coordinates as in Liu
et al. 2018, arXiv:1807.03247 (CoordConv).
Letters: B batch, C channels, D depth, H rows, W columns.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attnconv import checks

POSITIONS = ("relative", "sine", "coordconv", None)
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")

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


def laid_out_as(x: Tensor, y: Tensor) -> Tensor:
    """Return ``y`` (B, C', *map) with channels first in memory where those of ``x`` (B, C, *map) are.

    Kernels return channels last. A convolution whose weight is laid out otherwise makes of that a gradient of other
    strides than the weight's, which DDP copies, with a warning, and hands the layout on to the layers behind it.
    """
    channels_last = x.stride(1) < x.stride(-1)
    # contiguous() would leave a map of 1x1 the strides of channels last.
    return y if channels_last else y.flatten(1).reshape(y.shape)


def halve(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Average over 3 cells an axis, stride 2, of the cells that exist: (B, C, H, W) -> (B, C, ceil(H/2), ceil(W/2)).

    Of those, only the cells count that are True in ``mask`` (B, H, W); where there is none, the average is 0.
    """
    if mask is not None:
        valid = mask[:, None].to(x.dtype)
        return halve(x * valid) / halve(valid).clamp_min(0.01)  # one cell of 27 is more
    axes = x.dim() - 2
    if axes == 1:
        return F.avg_pool1d(x, 3, stride=2, padding=1, count_include_pad=False)
    if axes == 2:
        return F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
    # F.avg_pool3d refuses maps of under 3 cells. The mean over a box is the mean of the means along its axes.
    depth = x.shape[2]
    x = F.avg_pool2d(x.flatten(1, 2), 3, stride=2, padding=1, count_include_pad=False)
    x = x.unflatten(1, (-1, depth))  # (B, C, D, H', W')
    rows = F.avg_pool2d(x.flatten(3), (3, 1), stride=(2, 1), padding=(1, 0), count_include_pad=False)
    return rows.unflatten(3, x.shape[3:])


def sine(channels: int, map_size: tuple[int, ...], like: Tensor) -> Tensor:
    """Return sine and cosine waves to be added: (channels, *map) in the dtype and on the device of ``like``.

    Each axis gets w = ``channels // (2 * axes)`` waves; wave i is 2 pi * 10,000**(i / w) cells long. Channels left
    over are 0.
    """
    axes = len(map_size)
    waves = channels // (2 * axes)
    frequency = 10_000.0 ** (-torch.arange(waves, device=like.device) / waves)
    parts = []
    for axis, n in enumerate(map_size):
        angle = frequency[:, None] * torch.arange(n, device=like.device)  # (waves, n)
        wave = torch.cat([angle.sin(), angle.cos()])  # (2 * waves, n)
        parts.append(_along(wave, axis, map_size))
    parts.append(torch.zeros(channels - 2 * waves * axes, *map_size, device=like.device))
    return torch.cat(parts).to(like.dtype)


def coordinates(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the coordinates of the cells of ``x`` (B, C, *map), from -1 to 1 along each axis: (B, axes, *map).

    They are 0 on an axis of one cell. With a ``mask`` (B, *map) the last valid line of an axis has 1, in each image.
    """
    map_size, parts = x.shape[2:], []
    for axis, n in enumerate(map_size):
        cells = torch.arange(n, device=x.device)[None]  # (1, n)
        if mask is None:
            line = (2 * cells - (n - 1)) / max(n - 1, 1)
        else:
            last = mask.movedim(axis + 1, 1).flatten(2).any(2).sum(1, keepdim=True) - 1  # (B, 1)
            line = (2 * cells - last) / last.clamp_min(1)  # (B, n)
        parts.append(_along(line, axis, map_size))
    return torch.stack(parts, dim=1).to(x.dtype).expand(x.shape[0], -1, *map_size)


def _along(values: Tensor, axis: int, map_size: tuple[int, ...]) -> Tensor:
    """Return (C, n) laid along one axis and repeated over the others: (C, *map)."""
    own_axis = [1] * len(map_size)
    own_axis[axis] = map_size[axis]
    return values.unflatten(-1, own_axis).expand(-1, *map_size)


def resized_table(table: Tensor, rows: int | None) -> Tensor:
    """Return a position table (2R-1, D) interpolated linearly to ``rows``, as a contiguous tensor of its own."""
    if rows == 1:  # interpolation would keep the first row; distance 0 is the middle one
        new = table[len(table) // 2][None]
    else:
        new = F.interpolate(table.mT[None], size=rows, mode="linear", align_corners=True)[0].mT
    return new.clone(memory_format=torch.contiguous_format)
