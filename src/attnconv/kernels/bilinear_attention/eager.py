"""Bilinear attention in its three orders of multiplication, in plain torch.

Letters: B batch, C channels, L positions of the map.
"""

import torch
from torch import Tensor


def forward(x: Tensor, weight: Tensor, gamma: Tensor | float, normalize: bool, order: str) -> Tensor:
    """x (B, C, *map), weight (C, C) -> (B, C, *map): gamma * x x^T W x + x."""
    exact = torch.promote_types(x.dtype, torch.float32)
    flat, weight = x.flatten(2).to(exact), weight.to(exact)  # (B, C, L), (C, C)
    if normalize:
        weight = weight / flat.shape[2]
    if order == "scores":
        mixed = flat @ (flat.mT @ (weight @ flat))  # (B, L, L) inside
    elif order == "gram":
        mixed = (flat @ flat.mT) @ (weight @ flat)  # (B, C, C) times (B, C, L)
    else:
        mixed = ((flat @ flat.mT) @ weight) @ flat
    if isinstance(gamma, Tensor):
        gamma = gamma.to(exact).reshape(())
    return (flat + gamma * mixed).unflatten(2, x.shape[2:]).to(x.dtype)
