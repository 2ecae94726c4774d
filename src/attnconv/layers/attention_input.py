"""Input map of attention inside a convolution: at the window centres, halved, with positions.

Sources: Bello et al. 2019, arXiv:1904.09925, section 4.2, for 3x3 average pooling of stride 2; Vaswani et al. 2017,
arXiv:1706.03762, section 3.5, for sine waves, with an equal share of the channels per axis; Liu et al. 2018,
arXiv:1807.03247, for coordinates (CoordConv).
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

Pairs = tuple[tuple[int, int], ...]  # (left, right) per axis


def padding_pairs(padding: Any, stride: tuple[int, ...], reach: Sequence[int]) -> Pairs:
    """Return nn.Conv2d's ``padding`` as pairs; ``reach`` is the distance from a window's first to its last cell."""
    if isinstance(padding, str):
        if checks.one_of("padding", padding, ("same", "valid")) == "valid":
            return ((0, 0),) * len(stride)
        if stride != (1,) * len(stride):
            raise checks.InputError(f"padding='same' needs stride 1, got {stride}")
        return tuple((r // 2, r - r // 2) for r in reach)
    return tuple((p, p) for p in checks.per_axis("padding", padding, len(stride), at_least=0))


def centre_pairs(padding: Pairs, reach: Sequence[int], inner_reach: Sequence[int]) -> Pairs:
    """Return the padding (or, if negative, the crop) that centres windows of ``inner_reach`` on those of ``reach``.

    The centre of a window is reach // 2 cells after its left end. Wider padding adds a ring of centres; narrower
    padding omits border cells. A wider inner kernel needs its own reach around each centre.
    """
    return tuple(
        (left - r // 2 + q // 2, right - (r - r // 2) + (q - q // 2))
        for (left, right), r, q in zip(padding, reach, inner_reach, strict=True)
    )


def at_centres(x: Tensor, pairs: Pairs, padding_mode: str) -> Tensor:
    """Pad or crop ``x`` (B, C, *map) by ``pairs`` of `centre_pairs`."""
    amounts = [amount for pair in reversed(pairs) for amount in pair]  # F.pad wants the last axis first
    crop, ring = [min(a, 0) for a in amounts], [max(a, 0) for a in amounts]
    if any(crop):
        x = F.pad(x, crop)
    if any(ring):
        x = F.pad(x, ring, mode="constant" if padding_mode == "zeros" else padding_mode)
    return x


def laid_out_as(x: Tensor, y: Tensor) -> Tensor:
    """Return ``y`` (B, C', *map) with the memory layout of ``x`` (B, C, *map), channels first or channels last.

    Kernels return channels last. For a convolution with another layout this gives gradients with other strides than the
    weight's, which DDP copies with a warning, and passes the layout on to later layers.
    """
    channels_last = x.stride(1) < x.stride(-1)
    # contiguous() would keep the channels-last strides of a 1x1 map.
    return y if channels_last else y.flatten(1).reshape(y.shape)


def halve(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the average (B, C, ceil(H/2), ceil(W/2)) over 3 cells per axis with stride 2 of x (B, C, H, W).

    Only existing cells that are True in ``mask`` (B, H, W) count; without any the average is 0.
    """
    if mask is not None:
        valid = mask[:, None].to(x.dtype)
        return halve(x * valid) / halve(valid).clamp_min(0.01)  # less than one cell of 27
    axes = x.dim() - 2
    if axes == 1:
        return F.avg_pool1d(x, 3, stride=2, padding=1, count_include_pad=False)
    if axes == 2:
        return F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
    # F.avg_pool3d refuses maps of fewer than 3 cells. The mean over a box is the mean of the means along its axes.
    depth = x.shape[2]
    x = F.avg_pool2d(x.flatten(1, 2), 3, stride=2, padding=1, count_include_pad=False)
    x = x.unflatten(1, (-1, depth))  # (B, C, D, H', W')
    rows = F.avg_pool2d(x.flatten(3), (3, 1), stride=(2, 1), padding=(1, 0), count_include_pad=False)
    return rows.unflatten(3, x.shape[3:])


def sine(channels: int, map_size: tuple[int, ...], like: Tensor) -> Tensor:
    """Return sine and cosine waves (channels, *map) with the dtype and device of ``like``.

    Each axis gets w = ``channels // (2 * axes)`` waves; wave i is 2 pi * 10,000**(i / w) cells long. Remaining channels
    are 0.
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
    """Return coordinates (B, axes, *map) from -1 to 1 of the cells of ``x`` (B, C, *map).

    An axis of one cell has 0. With a ``mask`` (B, *map), the last valid line of each image has 1.
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
    """Return ``values`` (C, n) along one axis, repeated along the others: (C, *map)."""
    own_axis = [1] * len(map_size)
    own_axis[axis] = map_size[axis]
    return values.unflatten(-1, own_axis).expand(-1, *map_size)


def resized_table(table: Tensor, rows: int | None) -> Tensor:
    """Return a contiguous copy of a position table (2R-1, D), interpolated linearly to ``rows``."""
    if rows == 1:  # interpolation would keep the first row, but distance 0 is the middle one
        new = table[len(table) // 2][None]
    else:
        new = F.interpolate(table.mT[None], size=rows, mode="linear", align_corners=True)[0].mT
    return new.clone(memory_format=torch.contiguous_format)
