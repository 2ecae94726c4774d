"""Channels that attention takes from a convolution.

Source: Bello et al. 2019, arXiv:1904.09925, section 4; kappa 0.2 and upsilon 0.1 are its values.
"""

import math

from torch import nn

from attnconv import checks


def attention_widths(
    out_channels: int, *, key_ratio: float = 0.2, value_ratio: float = 0.1, num_heads: int = 8, min_head_dim: int = 20
) -> tuple[int, int]:
    """Return max(floor(key_ratio*F/N)*N, min_head_dim*N) and max(floor(value_ratio*F/N)*N, N), the paper's widths."""
    for name, ratio in (("key_ratio", key_ratio), ("value_ratio", value_ratio)):
        if checks.number(name, ratio) < 0:
            raise checks.InputError(f"{name} must not be negative, got {ratio}")
    checks.integer("num_heads", num_heads, at_least=1)
    checks.integer("min_head_dim", min_head_dim, at_least=1)
    # 0.29 * 100 is 28.999999999999996 in binary floating point, hence 1e-9 before the floor.
    key_dim, value_dim = (math.floor(r * out_channels / num_heads + 1e-9) for r in (key_ratio, value_ratio))
    return max(key_dim, min_head_dim) * num_heads, max(value_dim, 1) * num_heads


def require_split(
    conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, value_channels: int, value_ratio: float, num_heads: int
) -> None:
    """Raise unless attention can take ``value_channels`` outputs of ``conv`` and leave equally many to each group."""
    channels, groups = conv.out_channels, conv.groups
    if value_channels > channels:
        raise checks.InputError(
            f"attention cannot take {value_channels} of {channels} output channels (value_ratio={value_ratio}, "
            f"and one channel for each of num_heads={num_heads}); lower value_ratio or num_heads"
        )
    step = math.lcm(groups, num_heads)
    if (channels - value_channels) % groups:
        fits = min(range(step, channels + 1, step), key=lambda n: abs(n - value_channels), default=None)
        raise checks.InputError(
            f"with groups={groups} and num_heads={num_heads}, attention can take a multiple of {step} of the "
            f"{channels} output channels, not {value_channels}; "
            + (f"value_ratio={fits}/{channels} fits" if fits else f"choose num_heads that divides {groups}")
        )
