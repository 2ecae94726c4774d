"""A small U-Net for segmentation, plain and with attention at its bottleneck.

Source: Ronneberger et al. 2015, arXiv:1505.04597. Departures: two halvings, one padded convolution per level, batch
norm, and nearest-neighbour upsampling instead of transposed convolutions. Each output pixel of the plain network
depends only on input pixels at most 13 rows and columns away.

Letters: B batch, C channels, H rows, W columns.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnconv.models.blocks import Augmentation, conv3x3, require_pixels
from attnconv.models.network import HubNetwork
from attnconv.models.registry import Task

CHANNELS = (16, 32, 64)


def block(conv: nn.Module, channels: int) -> nn.Sequential:
    """Make a convolution with batch norm and ReLU."""
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class UNet(HubNetwork):
    """Two levels down to a quarter of the size, the bottleneck, and two levels up with skip connections.

    Shapes: (B, in_channels, rows, columns) -> logits (B, num_classes, rows, columns); at least 4 pixels per side.

    Args:
        task: its num_classes are outputs per pixel.
        bottleneck: the convolution from 32 to 64 channels at a quarter of the size.
    """

    def __init__(self, task: Task, bottleneck: nn.Module) -> None:
        super().__init__()
        first, second, third = CHANNELS
        self.down1 = block(conv3x3(task.in_channels, first), first)
        self.down2 = block(conv3x3(first, second), second)
        self.bottleneck = block(bottleneck, third)
        self.up2 = block(conv3x3(third + second, second), second)
        self.up1 = block(conv3x3(second + first, first), first)
        self.head = nn.Conv2d(first, task.num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        require_pixels(x, 4)
        x1 = self.down1(x)  # (B, 16, H, W)
        x2 = self.down2(F.max_pool2d(x1, 2))  # (B, 32, H / 2, W / 2)
        y = self.bottleneck(F.max_pool2d(x2, 2))  # (B, 64, H / 4, W / 4)
        for skip, level in ((x2, self.up2), (x1, self.up1)):
            y = F.interpolate(y, size=skip.shape[-2:], mode="nearest")
            y = level(torch.cat([y, skip], dim=1))
        return self.head(y)


def unet(task: Task, *, augmentation: Augmentation | None = None) -> UNet:
    """Make the network, for images of at least 4 x 4 pixels; with ``augmentation`` its bottleneck is augmented."""
    rows, columns = task.image_size
    make = augmentation.conv3x3((max(rows // 4, 1), max(columns // 4, 1))) if augmentation else conv3x3
    return UNet(task, make(*CHANNELS[1:]))
