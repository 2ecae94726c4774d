"""SimpleSelfAttention: attention without a softmax and with a single weight.

Source: SimpleSelfAttention (2019), after SAGAN, arXiv:1805.08318. Departures: ``symmetric`` is truly symmetric, S can
be divided by the number of positions, and the products run in the cheapest order.
Letters: B batch, C channels, L positions of the map.
"""

import torch
from torch import Tensor, nn

from attnconv import checks, ops
from attnconv.layers.self_attention import check_map
from attnconv.layers.spectral_norm import pointwise_conv, refuse_vmap_in_training


class SimpleSelfAttention(nn.Module):
    """y = gamma * x S + x with S = x^T W x, the influence of each position on each other.

    Shapes: (B, C, *map) -> the same, any number of map axes. gamma starts at 0, where the output is x.
    Memory: linear in L, or less, since S is formed only where L < C.

    Args:
        channels: C.
        symmetric: use (W + W^T) / 2, so that two positions influence each other equally.
        normalize: divide S by L, so that its size does not depend on the map's.
        spectral_norm: divide W by its largest singular value, as published.
    Raises:
        ValueError: in forward, for an input without batch axis or of other channels.
    """

    def __init__(
        self, channels: int, *, symmetric: bool = False, normalize: bool = False, spectral_norm: bool = True
    ) -> None:
        super().__init__()
        self.channels = checks.integer("channels", channels, at_least=1)
        self.symmetric, self.normalize = symmetric, normalize
        self.conv = pointwise_conv(channels, channels, spectral_norm=spectral_norm, symmetric=symmetric)
        self.gamma = nn.Parameter(torch.zeros(1))

    @refuse_vmap_in_training
    def forward(self, x: Tensor) -> Tensor:
        check_map(self, x, self.channels)
        # The weight is read once: under spectral norm each reading in training is a step of the power iteration.
        return ops.bilinear_attention(x, self.conv.weight, self.gamma, normalize=self.normalize)

    def extra_repr(self) -> str:
        return f"{self.channels}, symmetric={self.symmetric}, normalize={self.normalize}"
