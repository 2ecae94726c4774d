"""torchvision's squeeze-excitation, imported when a network has one.

Source: Hu et al. 2018, arXiv:1709.01507.
"""

from collections.abc import Callable

from torch import nn

from attnconv import checks


def squeeze_excitation(channels: int, width: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    """(B, channels, H, W) -> the same, each channel scaled; ``width`` channels between the two linear steps."""
    return checks.require("torchvision", extra="train").ops.SqueezeExcitation(channels, width, activation=activation)
