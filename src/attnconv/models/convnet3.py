"""Three convolutions, plain and augmented: the smallest network for comparing attention.

Source: the three-layer comparison of Attention-Augmented-Conv2d (2019), channels 64, 128, 192, whose code that
repository does not have. Ours: batch norm after each convolution, as in the paper, and by default a plain first layer,
so that attention does not run on the full image.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attnconv.models.blocks import Augmentation, chosen, conv3x3, require_pixels
from attnconv.models.network import Network
from attnconv.models.registry import Task

CHANNELS = (64, 128, 192)


class ConvNet3(Network):
    """Three blocks of 3x3 convolution, batch norm, ReLU and 2x2 max pooling, then mean pooling and a linear layer.

    Shapes: (B, C, rows, columns) -> (B, num_classes); at least 8 pixels per side.

    Args:
        convs: the three convolutions, of 64, 128 and 192 output channels.
        num_classes: outputs.
    """

    def __init__(self, convs: Sequence[nn.Module], num_classes: int) -> None:
        super().__init__()
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.MaxPool2d(2))
            for conv, channels in zip(convs, CHANNELS, strict=True)
        )
        self.add_classifier(list(zip(CHANNELS, (2, 4, 8), strict=True)), num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            require_pixels(x, 8)
        return self.layer3(self.layer2(self.layer1(x)))


def convnet3(task: Task, *, augment: Sequence[int] = (), augmentation: Augmentation | None = None) -> ConvNet3:
    """Make the network, for images of at least 8 x 8 pixels.

    Args:
        augment: the augmented layers among 1, 2, 3, which run at full, half and quarter size.
        augmentation: options of the augmented convolutions.
    """
    augment = chosen("augment", augment, (1, 2, 3))
    convs = []
    for layer, (width_in, width) in enumerate(zip((task.in_channels, *CHANNELS), CHANNELS, strict=False), start=1):
        rows, columns = (max(n >> (layer - 1), 1) for n in task.image_size)
        make = augmentation.conv3x3((rows, columns)) if augmentation and layer in augment else conv3x3
        convs.append(make(width_in, width))
    return ConvNet3(convs, task.num_classes)
