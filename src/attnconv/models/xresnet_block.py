"""The block of an XResNet: the usual tricks as options, and room for attention before the addition.

Sources: He et al. 2018, arXiv:1812.01187, section 4, as fastai has it; the public leaderboard of Imagenette for the
options. Departures: `blur_pool` repeats borders where the leaderboard's runs reflect them, so that maps of one cell
work; it blurs over 3 cells and takes each second one, where kornia's blurs over 5 and averages 2 x 2.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from attnconv import checks
from attnconv.models.squeeze_excitation import squeeze_excitation

ACTIVATIONS = {"relu": nn.ReLU, "mish": nn.Mish}


@dataclass(frozen=True, kw_only=True)
class Style:
    """What the blocks of a network share.

    Args:
        act: "relu" or "mish".
        shortcut_pool: "average" or "max"; 2x2, before the 1x1 convolution of a shortcut that halves the map.
        blur_pool: every max pool is 3x3 at stride 1, and its output is blurred before each second cell is taken.
        se: squeeze-excitation, reduction 16, in every block.
        groups: of the 3x3 convolutions in bottlenecks.
        width_per_group: channels of one group in the first stage, doubled from stage to stage.
    """

    act: str
    shortcut_pool: str
    blur_pool: bool
    se: bool
    groups: int
    width_per_group: int

    def __post_init__(self) -> None:
        checks.one_of("act", self.act, ACTIVATIONS)
        checks.one_of("shortcut_pool", self.shortcut_pool, ("average", "max"))
        checks.flag("blur_pool", self.blur_pool)
        checks.flag("se", self.se)
        checks.integer("groups", self.groups, at_least=1)
        checks.integer("width_per_group", self.width_per_group, at_least=1)

    def activation(self) -> nn.Module:
        return ACTIVATIONS[self.act](inplace=True)

    def max_pool(self, channels: int, kernel_size: int) -> nn.Module:
        """Half the map, rounded up."""
        padding = (kernel_size - 1) // 2
        if not self.blur_pool:
            return nn.MaxPool2d(kernel_size, stride=2, padding=padding, ceil_mode=kernel_size == 2)
        layers = checks.require("timm", extra="timm").layers
        return nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), layers.BlurPool2d(channels, pad_mode="replicate"))


def conv_bn(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, nn.Module]:
    """A convolution without bias, and its batch norm."""
    padding = kernel_size // 2
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(out_channels)


class XResBlock(nn.Module):
    """A basic block or a bottleneck whose last batch norm starts at zero.

    Shapes: (B, in_channels, H, W) -> (B, expansion * planes, H / stride, W / stride), rounded up.

    Args:
        expansion: 1, or 4 for a bottleneck.
        attention: makes the layer behind the last batch norm, from its channels.
    """

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int,
        *,
        expansion: int,
        style: Style,
        attention: Callable[[int], nn.Module] | None,
    ) -> None:
        super().__init__()
        out_channels = expansion * planes
        if expansion == 1:
            convs = (
                *conv_bn(in_channels, planes, 3, stride),
                style.activation(),
                *conv_bn(planes, out_channels, 3),
            )
        else:
            width = planes // 64 * style.width_per_group * style.groups
            convs = (
                *conv_bn(in_channels, width, 1),
                style.activation(),
                *conv_bn(width, width, 3, stride, style.groups),
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
        if in_channels != out_channels:
            self.shortcut.extend(conv_bn(in_channels, out_channels, 1))
        self.act = style.activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.attention(self.se(self.convs(x))) + self.shortcut(x))
