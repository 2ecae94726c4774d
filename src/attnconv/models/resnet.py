"""Residual networks for ImageNet: plain, with squeeze-excitation, and attention-augmented.

Sources: He et al. 2015, arXiv:1512.03385, with the stride in the 3x3 convolution and parameter names as in torchvision;
Hu et al. 2017, arXiv:1709.01507; Bello et al. 2019, arXiv:1904.09925, section 4.2, which augments the 3x3 convolutions
of the last three stages. Departures: none known.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from attnconv import checks
from attnconv.models.blocks import Augmentation, Conv3x3, ResidualBlock, Stage, chosen, conv3x3, squeeze_excitation
from attnconv.models.network import Network
from attnconv.models.registry import Task

STAGES = (1, 2, 3, 4)
OUTPUT_STRIDES = (8, 16, 32)
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BASIC = (18, 34)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions; (B, in_channels, H, W) -> (B, planes, H / stride, W / stride), rounded up.

    Args:
        dilations: those of the two convolutions.
        conv: makes the first convolution, which has the stride.
        se: squeeze-excitation before the addition.
    """

    expansion = 1

    def __init__(
        self, in_channels: int, planes: int, stride: int, *, dilations: tuple[int, int], conv: Conv3x3, se: bool
    ) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, planes, stride, dilations[0])
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu1 = nn.ReLU(inplace=True)  # one per call: quantisers and DeepLift refuse a module that is called twice
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
        conv: makes the 3x3 convolution, which has the stride.
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
    """A 7x7 convolution, max pooling, four stages of blocks, mean pooling and a linear layer.

    Shapes: (B, in_channels, rows, columns) -> (B, num_classes), images of any size; the maps of the stages have 1/4,
    1/8, 1/16 and 1/32 of the image's side.

    The plain network loads torchvision's checkpoints. With value_ratio=1 attention replaces the convolution.

    Args:
        task: only attention needs its image size.
        depth: 18, 34, 50, 101 or 152.
        stages: stages, from 1 to 4, whose 3x3 convolutions (the first of a basic block) are augmented.
        augmentation: options of the augmented convolutions.
        pool_first: run the attention of the first augmented stage on a map of half the size.
        se: squeeze-excitation, reduction 16, in every block.
        output_stride: side of the image over side of the last map: 32, or 16 or 8, where dilated windows replace
            strides, so that weights of output stride 32 fit.
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
        stages = chosen("stages", stages, STAGES)
        checks.flag("pool_first", pool_first)
        self.conv1 = nn.Conv2d(task.in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

        def options(stage: int, reduction: int, _: bool) -> dict[str, Any]:
            if augmentation is None or stage not in stages:
                return {"conv": conv3x3, "se": se}
            rows, columns = (-(-n // reduction) for n in task.image_size)
            pool = 2 if pool_first and stage == min(stages) else 1
            return {"conv": augmentation.conv3x3((rows, columns), attention_pool=pool), "se": se}

        block = BasicBlock if depth in BASIC else Bottleneck
        add_stages(self, task, depth, block, 64, options, output_stride=output_stride, expansion=block.expansion)

    @staticmethod
    def initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def add_stages(
    model: Network,
    task: Task,
    depth: int,
    block: Callable[..., nn.Module],
    channels: int,
    options: Callable[[int, int, bool], dict[str, Any]],
    *,
    output_stride: int,
    expansion: int,
) -> None:
    """Add the stages layer1 to layer4 and the classifier, and initialise the network.

    Args:
        block: makes a block from input channels, planes, stride, dilations and options.
        channels: of the map that the first stage takes.
        options: gives a block's options for its stage, the reduction of its map and whether it is the stage's last.
        expansion: output channels of a block over its planes.
    """
    checks.one_of("output_stride", output_stride, OUTPUT_STRIDES)
    features = []
    for stage, blocks in zip(STAGES, DEPTHS[depth], strict=True):
        reduction = min(2 ** (stage + 1), output_stride)
        dilation = 2 ** (stage + 1) // reduction
        stride, dilations = 2 if stage > 1 and dilation == 1 else 1, (max(dilation // 2, 1), dilation)
        layer, planes = Stage(), 64 * 2 ** (stage - 1)
        for i in range(blocks):
            own = options(stage, reduction, i == blocks - 1)
            layer.append(block(channels, planes, stride, dilations=dilations, **own))
            channels, stride, dilations = expansion * planes, 1, (dilation, dilation)
        model.add_module(f"layer{stage}", layer)
        features.append((channels, reduction))
    model.add_classifier(features, task.num_classes)
    model.apply(model.initialise)


def _downsample(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))
