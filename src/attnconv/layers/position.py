"""Positions given to attention as features of its input, for a map of any size and number of axes.

Sources: sine waves as in Vaswani et al. 2017, arXiv:1706.03762, section 3.5, an equal share of the channels for each
axis; coordinates as in Liu et al. 2018, arXiv:1807.03247 (CoordConv).
"""

import torch
from torch import Tensor


def sine(channels: int, map_size: tuple[int, ...], like: Tensor) -> Tensor:
    """Sine and cosine waves to be added: (channels, *map) in the dtype and on the device of ``like``.

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


def coordinates(map_size: tuple[int, ...], like: Tensor) -> Tensor:
    """The coordinates, from -1 to 1 along each axis: (axes, *map), like ``like``; 0 on an axis of one cell."""
    parts = []
    for axis, n in enumerate(map_size):
        line = (2 * torch.arange(n, device=like.device) - (n - 1)) / max(n - 1, 1)  # (n,)
        parts.append(_along(line[None], axis, map_size))
    return torch.cat(parts).to(like.dtype)


def _along(values: Tensor, axis: int, map_size: tuple[int, ...]) -> Tensor:
    """(C, n) laid along one axis and repeated over the others: (C, *map)."""
    own_axis = [1] * len(map_size)
    own_axis[axis] = map_size[axis]
    return values.unflatten(-1, own_axis).expand(-1, *map_size)
