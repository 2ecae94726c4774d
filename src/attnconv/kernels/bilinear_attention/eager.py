"""Bilinear attention in its three orders of multiplication, in plain torch.

Letters: B batch, C channels, L positions of the map.
"""

from torch import Tensor


def forward(x: Tensor, weight: Tensor, gamma: Tensor, order: str) -> Tensor:
    """x (B, C, L), weight (C, C) and gamma () in the dtype to compute in -> (B, C, L): x + gamma * x x^T W x."""
    flat = x.to(weight.dtype)
    if order == "scores":
        y = flat + flat @ (gamma * (flat.mT @ (weight @ flat)))  # (B, L, L) inside
    elif order == "gram":
        y = flat + (gamma * (flat @ flat.mT)) @ (weight @ flat)  # (B, C, C) times (B, C, L)
    else:
        y = flat + (gamma * ((flat @ flat.mT) @ weight)) @ flat
    return y.to(x.dtype)
