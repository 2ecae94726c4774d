"""Wide residual networks for small images: plain, with squeeze-excitation, and attention-augmented.

Sources: Zagoruyko and Komodakis 2016, arXiv:1605.07146, sections 2 and 3; Bello et al. 2019, arXiv:1904.09925, section
4.1, which augments the first convolution of every block. Departures: none known. The published 36.3M parameters need
``shortcut="pad"``, which the paper does not mention; no reading of it found gives its 36.2M with attention.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from attnconv import checks
from attnconv.models import blocks
from attnconv.models.blocks import Augmentation, ResidualBlock, Stage, conv3x3
from attnconv.models.network import Network
from attnconv.models.registry import Task

STAGES = (1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class Style:
    """Options of all blocks of a network.

    Args:
        shortcut: where a block changes the shape: "pad" (average pooling and zero channels) or "conv" (1x1).
        dropout: probability between the two convolutions of a block.
    """

    shortcut: str
    dropout: float

    def __post_init__(self) -> None:
        checks.one_of("shortcut", self.shortcut, ("pad", "conv"))
        if not 0 <= checks.number("dropout", self.dropout) < 1:
            raise checks.InputError(f"dropout must be at least 0 and below 1, got {self.dropout}")


class PadShortcut(nn.Module):
    """A shortcut without parameters: average pooling, then zero channels.

    Shapes: (B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride), rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(stride, ceil_mode=True)
        self.added = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(self.pool(x), (0, 0, 0, 0, 0, self.added))


class PreActBlock(ResidualBlock):
    """Batch norm, ReLU and a 3x3 convolution, twice, with a shortcut that starts after the first ReLU.

    Shapes: (B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride), rounded up.

    Args:
        first: makes the first convolution.
        style: see `Style`; blocks that keep the shape add their input.
        se: squeeze-excitation after the second convolution.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, *, first: blocks.Conv3x3, style: Style, se: bool
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = first(in_channels, out_channels, stride=stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(style.dropout)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.se = blocks.squeeze_excitation(out_channels, out_channels // 16) if se else None
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            if style.shortcut == "pad":
                self.shortcut = PadShortcut(in_channels, out_channels, stride)
            else:
                self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        skip = x if self.shortcut is None else self.shortcut(y)
        y = self.conv1(y)
        y = self.conv2(self.dropout(F.relu(self.bn2(y))))
        return skip + self.drop_path(y if self.se is None else self.se(y))


class WideResNet(Network):
    """A 3x3 convolution, three stages of blocks at full, half and quarter size, mean pooling and a linear layer.

    Shapes: (B, in_channels, rows, columns) -> (B, num_classes), images of any size.

    Args:
        conv1: the first convolution.
        stages: three modules; the second and the third halve the map.
        channels: output channels of each stage.
        num_classes: outputs.
    """

    def __init__(self, conv1: nn.Module, stages: list[nn.Module], *, channels: list[int], num_classes: int) -> None:
        super().__init__()
        self.conv1 = conv1
        self.layer1, self.layer2, self.layer3 = stages
        self.bn = nn.BatchNorm2d(channels[-1])
        self.relu = nn.ReLU()
        self.add_classifier(list(zip(channels, (1, 2, 4), strict=True)), num_classes)

    @staticmethod
    def initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stage_names(self) -> list[str]:
        """Return the names; the last stage ends after the norm and the ReLU, which its blocks have first."""
        return ["layer1", "layer2", "relu"]


def blocks_of(depth: int) -> int:
    """Return the number of blocks per stage; raise InputError unless ``depth`` is 6n + 4."""
    count, rest = divmod(depth - 4, 6)
    if rest or count < 1:
        below = depth - rest
        near = f"{below} or {below + 6}" if count > 0 else "10"
        raise checks.InputError(f"the depth of a wide_resnet must be 6n + 4; got {depth}, nearest: {near}")
    return count


def wide_resnet(
    task: Task,
    depth: int,
    width: int,
    *,
    style: Style,
    stages: tuple[int, ...] = (),
    augmentation: Augmentation | None = None,
    se: bool = False,
) -> WideResNet:
    """Make wide_resnet{depth}_{k}: stages of 16k, 32k and 64k channels with (depth - 4) / 6 blocks each.

    Args:
        task: only attention needs its image size.
        depth, width: 6n + 4, and k.
        style: see `Style`.
        stages: stages, from 1 to 3, in whose blocks the first convolution is augmented; stage 1 has full size.
        augmentation: options of the augmented convolutions.
        se: squeeze-excitation (Hu et al. 2017, arXiv:1709.01507), reduction 16, in every block.
    """
    depth_of_stage, stages = blocks_of(depth), blocks.chosen("stages", stages, STAGES)
    channels, map_size, layers, widths = 16, task.image_size, [], []
    for stage in STAGES:
        stride = 1 if stage == 1 else 2
        map_size = map_size if stage == 1 else blocks.halved(map_size)
        first = augmentation.conv3x3(map_size) if augmentation and stage in stages else conv3x3
        layer, planes = Stage(), width * 16 * 2 ** (stage - 1)
        for _ in range(depth_of_stage):
            layer.append(PreActBlock(channels, planes, stride, first=first, style=style, se=se))
            channels, stride = planes, 1
        layers.append(layer)
        widths.append(channels)
    model = WideResNet(conv3x3(task.in_channels, 16), layers, channels=widths, num_classes=task.num_classes)
    return model.apply(model.initialise)
