"""The widths of attention inside a convolution: the paper's rule, and which widths fit each other.

Source: Bello et al. 2019, arXiv:1904.09925, section 4.
"""

import math

from attnconv import checks


def attention_widths(
    out_channels: int, *, key_ratio: float, value_ratio: float, num_heads: int, min_head_dim: int
) -> tuple[int, int]:
    """The paper's widths: d_k = max(floor(key_ratio*F/N)*N, min_head_dim*N), d_v = max(floor(value_ratio*F/N)*N, N)."""
    for name, ratio in (("key_ratio", key_ratio), ("value_ratio", value_ratio)):
        if checks.number(name, ratio) < 0:
            raise checks.InputError(f"{name} must not be negative, got {ratio}")
    checks.integer("num_heads", num_heads, at_least=1)
    checks.integer("min_head_dim", min_head_dim, at_least=1)
    # 0.29 * 100 is 28.999999999999996 in binary, so a hair is added before the floor.
    key_dim, value_dim = (math.floor(r * out_channels / num_heads + 1e-9) for r in (key_ratio, value_ratio))
    return max(key_dim, min_head_dim) * num_heads, max(value_dim, 1) * num_heads


def require_widths(
    name: str,
    *,
    in_channels: int,
    out_channels: int,
    key_channels: int,
    value_channels: int,
    num_heads: int,
    groups: int,
) -> None:
    """Raise unless the layer ``name`` can have these widths."""
    if value_channels == 0:
        raise checks.InputError(
            f"{name} without attention is a plain convolution: value_channels must be at least num_heads={num_heads}, "
            f"that is a value_ratio of at least {num_heads / out_channels:.4g}; got 0"
        )
    if key_channels == 0:
        raise checks.InputError(f"key_channels must be at least num_heads={num_heads}, got 0")
    for what, width in (("key_channels", key_channels), ("value_channels", value_channels)):
        if width % num_heads:
            raise checks.InputError(f"{what} must be a multiple of num_heads={num_heads}, got {width}")
    if value_channels > out_channels:
        raise checks.InputError(f"value_channels must be at most out_channels={out_channels}, got {value_channels}")
    conv_channels = out_channels - value_channels
    for what, width in (("in_channels", in_channels), ("out_channels - value_channels", conv_channels)):
        if conv_channels and width % groups:
            raise checks.InputError(f"{what} must be a multiple of groups={groups}, got {width}")
