"""Tensor checks of the ops and the layers: clear errors where torch would fail deep inside."""

from typing import Any

import torch
from torch import Tensor

from attnconv import checks

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def require_floats(what: str, x: Any) -> None:
    """Raise InputTypeError unless ``x`` is a tensor of one of FLOATS."""
    if not isinstance(x, Tensor) or x.dtype not in FLOATS:
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise checks.InputTypeError(f"{what} must be a floating point tensor, got {got}")


def require_mask(
    mask: Any, shape: tuple[int, ...], device: torch.device, *, name: str = "mask", of: str = "x", keys: bool = False
) -> None:
    """Raise unless ``mask`` is bool of ``shape`` on ``device``, that of ``of``; messages speak of ``keys`` or a map."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        where = "a key may be attended to" if keys else "there is image"
        raise checks.InputTypeError(f"{name} must be a bool tensor, True where {where}; got {got}")
    if mask.shape != shape:
        what = "key map" if keys else "map"
        raise checks.InputError(f"{name} must be (batch, *{what}), {shape}; got {tuple(mask.shape)}")
    if mask.device != device:
        raise checks.InputError(f"{name} must be on the device of {of}, got {mask.device} and {device}")


def as_number(what: str, value: Any) -> float:
    """Return ``value`` as a float; a tensor must have one element."""
    if isinstance(value, Tensor) and value.numel() != 1:
        raise checks.InputError(f"{what} must hold one element, got shape {tuple(value.shape)}")
    try:
        if not isinstance(value, str):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise checks.InputTypeError(f"{what} must be a number, got {type(value).__name__}")
