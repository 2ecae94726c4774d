"""Residual networks for ImageNet: plain, with squeeze-excitation, and attention-augmented.

Sources: He et al. 2015, arXiv:1512.03385, with the stride in the 3x3 convolution, and parameter names, as torchvision;
Hu et al. 2017, arXiv:1709.01507; Bello et al. 2019, arXiv:1904.09925, section 4.2, which augments 3x3 convolutions of
the last three stages. Departures: none known.
"""

from torch import Tensor, nn

from attnconv import checks
from attnconv.models.blocks import (
    Augmentation,
    Conv3x3,
    ResidualBlock,
    Stage,
    chosen,
    conv3x3,
    halved,
    squeeze_excitation,
)
from attnconv.models.network import Network
from attnconv.models.registry import Task

STAGES = (1, 2, 3, 4)
OUTPUT_STRIDES = (8, 16, 32)
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BASIC, BOTTLENECK = (18, 34), (50, 101, 152)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions; (B, in_channels, H, W) -> (B, planes, H / stride, W / stride), rounded up.

    Args:
        dilations: of the two convolutions.
        conv: makes the first convolution, the one with the stride.
        se: squeeze-excitation before the addition.
    """

    expansion = 1

    def __init__(
        self, in_channels: int, planes: int, stride: int, *, dilations: tuple[int, int], conv: Conv3x3, se: bool
    ) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, planes, stride, dilations[0])
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(planes, planes, dilation=dilations[1])
        self.bn2 = nn.BatchNorm2d(planes)
        self.se = squeeze_excitation(planes, planes // 16) if se else nn.Identity()
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(in_channels, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.drop_path(self.se(self.bn2(self.conv2(y))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions; (B, in_channels, H, W) -> (B, 4 * planes, H / stride, W / stride), rounded up.

    Args:
        dilations: the first is that of the 3x3 convolution.
        conv: makes the 3x3 convolution, the one with the stride.
        se: squeeze-excitation before the addition.
    """

    expansion = 4

    def __init__(
        self, in_channels: int, planes: int, stride: int, *, dilations: tuple[int, int], conv: Conv3x3, se: bool
    ) -> None:
        super().__init__()
        out_channels = self.expansion * planes
        self.conv1 = nn.Conv2d(in_channels, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = conv(planes, planes, stride, dilations[0])
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(planes, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.se = squeeze_excitation(out_channels, out_channels // 16) if se else nn.Identity()
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.drop_path(self.se(self.bn3(self.conv3(y))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(Network):
    """A 7x7 convolution and a max pooling, four stages of blocks, mean pooling and a linear layer.

    Shapes: (B, in_channels, rows, columns) -> (B, num_classes), images of any size; the stages' maps have 1/4, 1/8,
    1/16 and 1/32 of their side.

    Args:
        task: of which only attention needs the image size.
        depth: 18, 34, 50, 101 or 152.
        stages: those of 1 to 4 whose 3x3 convolutions (the first in a basic block) are augmented.
        augmentation: their options.
        pool_first: run the attention of the first augmented stage on a map of half the size.
        se: squeeze-excitation in every block.
        output_stride: 32; or 16 or 8, the side of the image over that of the last map: where the map is not halved,
            windows are dilated instead, so that weights of a network of output stride 32 fit.
    """

    def __init__(
        self,
        task: Task,
        depth: int,
        *,
        stages: tuple[int, ...] = (),
        augmentation: Augmentation | None = None,
        pool_first: bool = False,
        se: bool = False,
        output_stride: int = 32,
    ) -> None:
        super().__init__()
        checks.one_of("output_stride", output_stride, OUTPUT_STRIDES)
        stages = chosen("stages", stages, STAGES)
        checks.flag("pool_first", pool_first)
        block = BasicBlock if depth in BASIC else Bottleneck
        self.conv1 = nn.Conv2d(task.in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels, map_size, layers, features = 64, halved(halved(task.image_size)), [], []
        for stage, blocks in zip(STAGES, DEPTHS[depth], strict=True):
            stride, dilation = stride_and_dilation(stage, output_stride)
            planes, dilations = 64 * 2 ** (stage - 1), (max(dilation // 2, 1), dilation)
            map_size = map_size if stride == 1 else halved(map_size)
            conv = conv3x3
            if augmentation and stage in stages:
                conv = augmentation.conv3x3(map_size, attention_pool=2 if pool_first and stage == min(stages) else 1)
            layer = Stage()
            for _ in range(blocks):
                layer.append(block(channels, planes, stride, dilations=dilations, conv=conv, se=se))
                channels, stride, dilations = block.expansion * planes, 1, (dilation, dilation)
            layers.append(layer)
            features.append((channels, min(2 ** (stage + 1), output_stride)))
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.add_classifier(features, task.num_classes)
        self.apply(self.initialise)

    @staticmethod
    def initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def stride_and_dilation(stage: int, output_stride: int) -> tuple[int, int]:
    """Return a stage's stride and the dilation of its windows; its first block has the dilation of the stage before."""
    dilation = max(2 ** (stage + 1) // output_stride, 1)
    return (2 if stage > 1 and dilation == 1 else 1), dilation


def _downsample(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


def resnet(task: Task, *, depth: int, output_stride: int) -> ResNet:
    """resnet{depth}, the plain network; torchvision's checkpoints load."""
    return ResNet(task, depth, output_stride=output_stride)


def se_resnet(task: Task, *, depth: int, output_stride: int) -> ResNet:
    """The same with squeeze-excitation, reduction 16, in every block."""
    return ResNet(task, depth, se=True, output_stride=output_stride)


def aa_resnet(
    task: Task,
    *,
    depth: int,
    stages: tuple[int, ...],
    augmentation: Augmentation,
    pool_first: bool,
    output_stride: int,
) -> ResNet:
    """The same with the 3x3 convolution of each block, the first in a basic block, augmented; arguments as `ResNet`.

    With value_ratio=1 attention is left alone.
    """
    return ResNet(
        task, depth, stages=stages, augmentation=augmentation, pool_first=pool_first, output_stride=output_stride
    )
