"""XResNet: residual networks with the usual tricks as options, plain or with attention that starts closed.

Sources: He et al. 2018, arXiv:1812.01187, section 4, as fastai has it; SimpleSelfAttention (2019), which puts its layer
at the end of the first stage; the public leaderboard of Imagenette for the options. Departures: `blur_pool` repeats
borders where the leaderboard's runs reflect them, so that maps of one cell work; it blurs over 3 cells and takes each
second one, where kornia's blurs over 5 and averages 2 x 2.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from attnconv import checks
from attnconv.layers.registry import find_attention
from attnconv.models.blocks import ResidualBlock, Stage, chosen, squeeze_excitation
from attnconv.models.network import Network
from attnconv.models.registry import IMAGEWOOF, Task, register
from attnconv.models.resnet import BASIC, DEPTHS, OUTPUT_STRIDES, STAGES, stride_and_dilation

NUMBERS = r"xresnet(?P<depth>18|34|50|101|152)"
ACTIVATIONS = {"relu": nn.ReLU, "mish": nn.Mish}


@dataclass(frozen=True, kw_only=True)
class Style:
    """Options of a network, most of them of its blocks.

    Args:
        stem: channels of the first three convolutions.
        act: "relu" or "mish".
        shortcut_pool: "average" or "max"; 2x2, before the 1x1 convolution of a shortcut that halves the map.
        blur_pool: every max pool is 3x3 at stride 1, and its output is blurred before each second cell is taken.
        se: squeeze-excitation, reduction 16, in every block.
        groups: of the 3x3 convolutions in bottlenecks.
        width_per_group: channels of one group in the first stage, doubled from stage to stage.
        output_stride: as `attnconv.models.resnet.ResNet`'s.
    """

    stem: tuple[int, int, int] = (32, 64, 64)
    act: str = "relu"
    shortcut_pool: str = "average"
    blur_pool: bool = False
    se: bool = False
    groups: int = 1
    width_per_group: int = 64
    output_stride: int = 32

    def __post_init__(self) -> None:
        checks.per_axis("stem", self.stem, 3, at_least=1)
        checks.one_of("act", self.act, ACTIVATIONS)
        checks.one_of("shortcut_pool", self.shortcut_pool, ("average", "max"))
        checks.flag("blur_pool", self.blur_pool)
        checks.flag("se", self.se)
        checks.integer("groups", self.groups, at_least=1)
        checks.integer("width_per_group", self.width_per_group, at_least=1)
        checks.one_of("output_stride", self.output_stride, OUTPUT_STRIDES)

    def activation(self) -> nn.Module:
        return ACTIVATIONS[self.act](inplace=True)

    def max_pool(self, channels: int, kernel_size: int) -> nn.Module:
        """Half the map, rounded up."""
        padding = (kernel_size - 1) // 2
        if not self.blur_pool:
            return nn.MaxPool2d(kernel_size, stride=2, padding=padding, ceil_mode=kernel_size == 2)
        layers = checks.require("timm", extra="timm").layers
        return nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), layers.BlurPool2d(channels, pad_mode="replicate"))


PLAIN = Style()


def conv_bn(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, dilation: int = 1, groups: int = 1
) -> tuple[nn.Module, nn.Module]:
    """A convolution without bias, and its batch norm."""
    padding = kernel_size // 2 * dilation
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=False)
    return conv, nn.BatchNorm2d(out_channels)


class XResBlock(ResidualBlock):
    """A basic block or a bottleneck whose last batch norm starts at zero.

    Shapes: (B, in_channels, H, W) -> (B, expansion * planes, H / stride, W / stride), rounded up.

    Args:
        dilations: of the two 3x3 convolutions; of a bottleneck's one the first.
        expansion: 1, or 4 for a bottleneck.
        attention: makes the layer behind the last batch norm, from its channels.
    """

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int,
        *,
        dilations: tuple[int, int],
        expansion: int,
        style: Style,
        attention: Callable[[int], nn.Module] | None,
    ) -> None:
        super().__init__()
        out_channels = expansion * planes
        if expansion == 1:
            convs = (
                *conv_bn(in_channels, planes, 3, stride, dilations[0]),
                style.activation(),
                *conv_bn(planes, out_channels, 3, dilation=dilations[1]),
            )
        else:
            width = planes // 64 * style.width_per_group * style.groups
            convs = (
                *conv_bn(in_channels, width, 1),
                style.activation(),
                *conv_bn(width, width, 3, stride, dilations[0], style.groups),
                style.activation(),
                *conv_bn(width, out_channels, 1),
            )
        self.convs = nn.Sequential(*convs)
        nn.init.zeros_(self.convs[-1].weight)  # type: ignore[arg-type]
        self.se = nn.Identity()
        if style.se:
            # A sixteenth, but a multiple of 8, as fastai rounds.
            self.se = squeeze_excitation(out_channels, -(-out_channels // 128) * 8, style.activation)
        self.attention = nn.Identity() if attention is None else attention(out_channels)
        self.shortcut = nn.Sequential()
        if stride == 2:
            self.shortcut.append(
                style.max_pool(in_channels, 2) if style.shortcut_pool == "max" else nn.AvgPool2d(2, ceil_mode=True)
            )
        elif dilations[0] != dilations[1]:
            self.shortcut.append(nn.Identity())  # so that weights have the same names as with a pool
        if in_channels != out_channels:
            self.shortcut.extend(conv_bn(in_channels, out_channels, 1))
        self.act = style.activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop_path(self.attention(self.se(self.convs(x)))) + self.shortcut(x))


class XResNet(Network):
    """Three 3x3 convolutions and a max pooling, four stages of blocks, mean pooling and a linear layer.

    Shapes: (B, in_channels, rows, columns) -> (B, num_classes), images of any size; the stages' maps have 1/4, 1/8,
    1/16 and 1/32 of their side.

    Args:
        task: whose image size is of no concern.
        depth: 18, 34, 50, 101 or 152.
        style: see `Style`.
        attention: makes an attention layer from its channels.
        attention_stages: the stages, counted from 1, whose last block has one.
    """

    def __init__(
        self,
        task: Task,
        depth: int,
        *,
        style: Style = PLAIN,
        attention: Callable[[int], nn.Module] | None = None,
        attention_stages: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        attention_stages = chosen("attention_stages", attention_stages, STAGES)
        if depth in BASIC and (style.groups, style.width_per_group) != (1, 64):
            raise checks.InputError(
                f"groups and width_per_group are for bottlenecks, xresnet50 and deeper; xresnet{depth} has none"
            )
        expansion = 1 if depth in BASIC else 4
        make = functools.partial(XResBlock, expansion=expansion, style=style)
        channels = task.in_channels
        self.stem = nn.Sequential()
        for i, width in enumerate(style.stem):
            self.stem.extend((*conv_bn(channels, width, 3, 2 if i == 0 else 1), style.activation()))
            channels = width
        self.stem.append(style.max_pool(channels, 3))
        layers, features = [], []
        for stage, blocks in zip(STAGES, DEPTHS[depth], strict=True):
            stride, dilation = stride_and_dilation(stage, style.output_stride)
            planes, dilations = 64 * 2 ** (stage - 1), (max(dilation // 2, 1), dilation)
            layer = Stage()
            for i in range(blocks):
                here = attention if stage in attention_stages and i == blocks - 1 else None
                layer.append(make(channels, planes, stride, dilations=dilations, attention=here))
                channels, stride, dilations = expansion * planes, 1, (dilation, dilation)
            layers.append(layer)
            features.append((channels, min(2 ** (stage + 1), style.output_stride)))
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.add_classifier(features, task.num_classes)
        self.apply(self.initialise)

    @staticmethod
    def initialise(module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@register(NUMBERS, tuple(f"xresnet{depth}" for depth in DEPTHS), images=IMAGEWOOF)
def xresnet(task: Task, *, depth: int, style: Style = PLAIN) -> XResNet:
    """xresnet{depth}, the plain network."""
    return XResNet(task, depth, style=style)


@register(f"sa_{NUMBERS}", tuple(f"sa_xresnet{depth}" for depth in DEPTHS), images=IMAGEWOOF, plain="xresnet{depth}")
def sa_xresnet(task: Task, *, depth: int, attention_stages: tuple[int, ...] = (1,), style: Style = PLAIN) -> XResNet:
    """The same with a `SelfAttention` behind the last batch norm of a stage's last block.

    Args:
        attention_stages: which of the stages 1 to 4.
    """
    return XResNet(task, depth, style=style, attention=find_attention("sagan").make, attention_stages=attention_stages)


@register(f"ssa_{NUMBERS}", tuple(f"ssa_xresnet{depth}" for depth in DEPTHS), images=IMAGEWOOF, plain="xresnet{depth}")
def ssa_xresnet(
    task: Task,
    *,
    depth: int,
    attention_stages: tuple[int, ...] = (1,),
    symmetric: bool = False,
    normalize: bool = False,
    style: Style = PLAIN,
) -> XResNet:
    """The same with a `SimpleSelfAttention` there, of which ``symmetric`` and ``normalize`` are options."""
    attention = functools.partial(find_attention("simple").make, symmetric=symmetric, normalize=normalize)
    return XResNet(task, depth, style=style, attention=attention, attention_stages=attention_stages)
