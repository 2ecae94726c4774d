"""The Wide-ResNet of Attention-Augmented-Conv2d (2019), so that its users can compare.

Source: that repository's AA-Wide-ResNet, its last version, which reads the paper's "kappa = 2 upsilon = 0.2" as kappa =
2, upsilon = 0.2. Departures: heads are read in the right order, maps need not be square, the last pool takes all of
the map.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from attnconv.layers import AugmentedConv2d
from attnconv.models.registry import CIFAR100, register
from attnconv.models.stages import halved
from attnconv.models.wide_resnet import WideResNet

STEM, WIDTHS, BLOCKS = 20, (200, 400, 600), 4


def augmented_conv(
    in_channels: int, out_channels: int, stride: int, *, feat_size: tuple[int, int], position: str | None
) -> AugmentedConv2d:
    """A 3x3 convolution, four heads, kappa 2, upsilon 0.2; its q, k, v come from a 3x3 convolution too."""
    return AugmentedConv2d(
        in_channels,
        out_channels,
        3,
        stride,
        padding=1,
        key_channels=2 * out_channels,
        value_channels=out_channels // 5,
        num_heads=4,
        feat_size=feat_size,
        position=position,
        qkv_kernel_size=3,
    )


class SeedBlock(nn.Module):
    """Batch norm, ReLU, convolution, twice, the second with the stride; the shortcut starts at the block's input.

    Shapes: (B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride), rounded up.

    Args:
        map_size: largest H, W.
        dropout: probability, behind the first convolution.
        position: as AugmentedConv2d's.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        map_size: tuple[int, int],
        dropout: float,
        position: str | None,
    ) -> None:
        super().__init__()
        feat_size = map_size if stride == 1 else halved(map_size)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = augmented_conv(in_channels, out_channels, 1, feat_size=map_size, position=position)
        self.dropout = nn.Dropout(dropout)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = augmented_conv(out_channels, out_channels, stride, feat_size=feat_size, position=position)
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = augmented_conv(in_channels, out_channels, stride, feat_size=feat_size, position=position)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dropout(self.conv1(F.relu(self.bn1(x))))
        y = self.conv2(F.relu(self.bn2(y)))
        return y + (x if self.shortcut is None else self.shortcut(x))


@register(images=CIFAR100)
def seed_aa_wide_resnet28_10(
    *,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    dropout: float = 0.0,
    position: str | None = "relative",
) -> WideResNet:
    """206M parameters: every convolution and every shortcut augmented, 20, 200, 400 and 600 channels.

    Args:
        dropout: probability, behind the first convolution of a block.
        position: as AugmentedConv2d's.
    """
    conv1 = augmented_conv(in_channels, STEM, 1, feat_size=image_size, position=position)
    channels, map_size, stages = STEM, image_size, []
    for width in WIDTHS:
        layer = nn.Sequential()
        for _ in range(BLOCKS):
            stride = 2 if len(layer) == 0 and stages else 1
            layer.append(SeedBlock(channels, width, stride, map_size=map_size, dropout=dropout, position=position))
            channels, map_size = width, map_size if stride == 1 else halved(map_size)
        stages.append(layer)
    return WideResNet(conv1, stages, channels=channels, num_classes=num_classes)
