"""XResNet: residual networks with the usual tricks as options, plain or with attention whose gate starts at 0.

Sources: He et al. 2018, arXiv:1812.01187, section 4, as in fastai; SimpleSelfAttention (2019), which puts its layer at
the end of the first stage; the public leaderboard of Imagenette for the options. Departures: `blur_pool` replicates
borders, so that maps of one cell work, while the leaderboard's runs reflect them; it blurs over 3 cells and takes every
second one, while kornia's blurs over 5 and averages 2 x 2.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from attnconv import checks
from attnconv.layers.registry import find_attention
from attnconv.models.blocks import ResidualBlock, chosen, squeeze_excitation
from attnconv.models.network import Network
from attnconv.models.registry import Task
from attnconv.models.resnet import BASIC, STAGES, add_stages

ACTIVATIONS = {"relu": nn.ReLU, "mish": nn.Mish}


@dataclass(frozen=True, kw_only=True)
class Style:
    """Options of a network.

    Args:
        stem: channels of the first three convolutions.
        act: "relu" or "mish".
        shortcut_pool: "average" or "max"; the 2x2 pooling in a shortcut that halves the map.
        blur_pool: pool by a 3x3 maximum of stride 1, a blur, and every second cell.
        se: squeeze-excitation, reduction 16, in every block.
        groups: groups of the 3x3 convolutions in bottlenecks.
        width_per_group: channels per group in the first stage; each stage doubles it.
        output_stride: as in `attnconv.models.resnet.ResNet`.
    """

    stem: tuple[int, int, int]
    act: str
    shortcut_pool: str
    blur_pool: bool
    se: bool
    groups: int
    width_per_group: int
    output_stride: int

    def __post_init__(self) -> None:
        checks.per_axis("stem", self.stem, 3, at_least=1)
        checks.one_of("act", self.act, ACTIVATIONS)
        checks.one_of("shortcut_pool", self.shortcut_pool, ("average", "max"))
        checks.flag("blur_pool", self.blur_pool)
        checks.flag("se", self.se)
        checks.integer("groups", self.groups, at_least=1)
        checks.integer("width_per_group", self.width_per_group, at_least=1)

    def activation(self) -> nn.Module:
        return ACTIVATIONS[self.act](inplace=True)

    def max_pool(self, channels: int, kernel_size: int) -> nn.Module:
        """Make a max pooling that halves the map, rounded up."""
        padding = (kernel_size - 1) // 2
        if not self.blur_pool:
            return nn.MaxPool2d(kernel_size, stride=2, padding=padding, ceil_mode=kernel_size == 2)
        layers = checks.require("timm", extra="timm").layers
        return nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), layers.BlurPool2d(channels, pad_mode="replicate"))


def conv_bn(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, dilation: int = 1, groups: int = 1
) -> tuple[nn.Module, nn.Module]:
    """Make a convolution without bias and its batch norm."""
    padding = kernel_size // 2 * dilation
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=False)
    return conv, nn.BatchNorm2d(out_channels)


class XResBlock(ResidualBlock):
    """A basic block or a bottleneck whose last batch norm starts at 0.

    Shapes: (B, in_channels, H, W) -> (B, expansion * planes, H / stride, W / stride), rounded up.

    Args:
        dilations: those of the two 3x3 convolutions; a bottleneck uses the first.
        expansion: 1, or 4 for a bottleneck.
        attention: makes the layer after the last batch norm from its channels.
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
            # One sixteenth, rounded up to a multiple of 8 as in fastai.
            self.se = squeeze_excitation(out_channels, -(-out_channels // 128) * 8, style.activation)
        self.attention = nn.Identity() if attention is None else attention(out_channels)
        self.shortcut = nn.Sequential()
        if stride == 2:
            self.shortcut.append(
                style.max_pool(in_channels, 2) if style.shortcut_pool == "max" else nn.AvgPool2d(2, ceil_mode=True)
            )
        elif dilations[0] != dilations[1]:
            self.shortcut.append(nn.Identity())  # keeps the names of the weights
        if in_channels != out_channels:
            self.shortcut.extend(conv_bn(in_channels, out_channels, 1))
        self.act = style.activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop_path(self.attention(self.se(self.convs(x)))) + self.shortcut(x))


class XResNet(Network):
    """Three 3x3 convolutions, max pooling, four stages of blocks, mean pooling and a linear layer.

    Shapes: (B, in_channels, rows, columns) -> (B, num_classes), images of any size; the maps of the stages have 1/4,
    1/8, 1/16 and 1/32 of the image's side.

    Args:
        task: its image size is not used.
        depth: 18, 34, 50, 101 or 152.
        style: see `Style`.
        attention: makes an attention layer from its channels.
        attention_stages: stages, from 1 to 4, with attention in their last block.
    """

    def __init__(
        self,
        task: Task,
        depth: int,
        *,
        style: Style,
        attention: Callable[[int], nn.Module] | None = None,
        attention_stages: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        attention_stages = chosen("attention_stages", attention_stages, STAGES)
        if depth in BASIC and (style.groups, style.width_per_group) != (1, 64):
            raise checks.InputError(
                f"groups and width_per_group are for bottlenecks, xresnet50 and deeper; xresnet{depth} has none"
            )
        channels = task.in_channels
        self.stem = nn.Sequential()
        for i, width in enumerate(style.stem):
            self.stem.extend((*conv_bn(channels, width, 3, 2 if i == 0 else 1), style.activation()))
            channels = width
        self.stem.append(style.max_pool(channels, 3))

        def options(stage: int, _: int, last: bool) -> dict[str, Any]:
            return {"attention": attention if last and stage in attention_stages else None}

        expansion = 1 if depth in BASIC else 4
        block = functools.partial(XResBlock, expansion=expansion, style=style)
        add_stages(self, task, depth, block, channels, options, output_stride=style.output_stride, expansion=expansion)

    @staticmethod
    def initialise(module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def xresnet(task: Task, *, depth: int, style: Style) -> XResNet:
    """Make xresnet{depth}, the plain network."""
    return XResNet(task, depth, style=style)


def sa_xresnet(task: Task, *, depth: int, attention_stages: tuple[int, ...], style: Style) -> XResNet:
    """Make the network with a `SelfAttention` after the last batch norm of the last block of ``attention_stages``."""
    return XResNet(task, depth, style=style, attention=find_attention("sagan").make, attention_stages=attention_stages)


def ssa_xresnet(
    task: Task, *, depth: int, attention_stages: tuple[int, ...], symmetric: bool, normalize: bool, style: Style
) -> XResNet:
    """Make the network with a `SimpleSelfAttention` there, with its options ``symmetric`` and ``normalize``."""
    attention = functools.partial(find_attention("simple").make, symmetric=symmetric, normalize=normalize)
    return XResNet(task, depth, style=style, attention=attention, attention_stages=attention_stages)
