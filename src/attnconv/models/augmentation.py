"""The bias-free 3x3 convolution of residual blocks, plain or augmented in some stages of a network.

Source: Bello et al. 2019, arXiv:1904.09925, section 4: one setting for all blocks, attention pooled where maps are
large.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from attnconv import checks
from attnconv.layers import AugmentedConv2d

Conv3x3 = Callable[[int, int, int], nn.Module]  # of in_channels, out_channels, stride


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """(B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride), rounded up."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What the augmented convolutions of a network share, named as in `AugmentedConv2d.from_ratios`.

    Args:
        stages: the stages, counted from 1, whose convolutions are augmented.
        pool_first: run the attention of the first of them on a map of half the size.
    """

    stages: tuple[int, ...]
    key_ratio: float
    value_ratio: float
    num_heads: int
    min_head_dim: int
    position: str | None
    pool_first: bool = False

    def __post_init__(self) -> None:
        checks.flag("pool_first", self.pool_first)

    def of(self, stage: int, map_size: tuple[int, int]) -> Conv3x3:
        """The convolution of ``stage``, whose output maps are of ``map_size`` at most."""
        if stage not in self.stages:
            return conv3x3

        def augmented(in_channels: int, out_channels: int, stride: int) -> AugmentedConv2d:
            return AugmentedConv2d.from_ratios(
                in_channels,
                out_channels,
                3,
                stride,
                padding=1,
                bias=False,
                key_ratio=self.key_ratio,
                value_ratio=self.value_ratio,
                num_heads=self.num_heads,
                min_head_dim=self.min_head_dim,
                feat_size=map_size,
                position=self.position,
                attention_pool=2 if self.pool_first and stage == min(self.stages) else 1,
            )

        return augmented
