"""XResNet: residual networks with the usual tricks, plain or with attention that starts closed.

Sources: He et al. 2018, arXiv:1812.01187, section 4, as fastai has it; SimpleSelfAttention (2019), which puts its layer
at the end of the first stage. Departures: those of the blocks.
"""

from collections.abc import Callable

from torch import Tensor, nn

from attnconv import checks
from attnconv.layers import SelfAttention, SimpleSelfAttention
from attnconv.models.network import Network
from attnconv.models.registry import IMAGENET, register_family
from attnconv.models.resnet import BASIC, DEPTHS, STAGES
from attnconv.models.stages import chosen
from attnconv.models.xresnet_block import Style, XResBlock, conv_bn

NUMBERS = r"xresnet(?P<depth>18|34|50|101|152)"


class XResNet(Network):
    """Three 3x3 convolutions and a max pooling, four stages of blocks, mean pooling and a linear layer.

    Shapes: (B, in_channels, rows, columns) -> (B, num_classes), images of any size; the stages' maps have 1/4, 1/8,
    1/16 and 1/32 of their side.

    Args:
        depth: 18, 34, 50, 101 or 152.
        num_classes: outputs.
        in_channels: image channels.
        stem: channels of the first three convolutions.
        style: of the blocks.
        attention: makes an attention layer from its channels.
        attention_stages: the stages, counted from 1, whose last block has one.
    """

    def __init__(
        self,
        depth: int,
        *,
        num_classes: int,
        in_channels: int,
        stem: tuple[int, int, int],
        style: Style,
        attention: Callable[[int], nn.Module] | None = None,
        attention_stages: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        if depth in BASIC and (style.groups, style.width_per_group) != (1, 64):
            raise checks.InputError(
                f"groups and width_per_group are for bottlenecks, xresnet50 and deeper; xresnet{depth} has none"
            )
        expansion = 1 if depth in BASIC else 4
        channels = in_channels
        self.stem = nn.Sequential()
        for i, width in enumerate(checks.per_axis("stem", stem, 3, at_least=1)):
            self.stem.extend((*conv_bn(channels, width, 3, 2 if i == 0 else 1), style.activation()))
            channels = width
        self.stem.append(style.max_pool(channels, 3))
        layers = []
        for stage, blocks in zip(STAGES, DEPTHS[depth], strict=True):
            stride, planes = (1 if stage == 1 else 2), 64 * 2 ** (stage - 1)
            layer = nn.Sequential()
            for i in range(blocks):
                here = attention if stage in attention_stages and i == blocks - 1 else None
                layer.append(XResBlock(channels, planes, stride, expansion=expansion, style=style, attention=here))
                channels, stride = expansion * planes, 1
            layers.append(layer)
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.add_classifier(channels, num_classes)
        self.apply(self.initialise)

    @staticmethod
    def initialise(module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))


@register_family(NUMBERS, tuple(f"xresnet{depth}" for depth in DEPTHS), images=IMAGENET)
def xresnet(
    *,
    depth: int,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    stem: tuple[int, int, int] = (32, 64, 64),
    act: str = "relu",
    shortcut_pool: str = "average",
    blur_pool: bool = False,
    se: bool = False,
    groups: int = 1,
    width_per_group: int = 64,
) -> XResNet:
    """xresnet{depth}, the plain network.

    Args:
        stem: channels of the first three convolutions.
        act, shortcut_pool, blur_pool, se, groups, width_per_group: as `Style`.
    """
    style = Style(
        act=act,
        shortcut_pool=shortcut_pool,
        blur_pool=blur_pool,
        se=se,
        groups=groups,
        width_per_group=width_per_group,
    )
    return XResNet(depth, num_classes=num_classes, in_channels=in_channels, stem=stem, style=style)


@register_family(
    f"sa_{NUMBERS}", tuple(f"sa_xresnet{depth}" for depth in DEPTHS), images=IMAGENET, plain="xresnet{depth}"
)
def sa_xresnet(
    *,
    depth: int,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    attention_stages: tuple[int, ...] = (1,),
    stem: tuple[int, int, int] = (32, 64, 64),
    act: str = "relu",
    shortcut_pool: str = "average",
    blur_pool: bool = False,
    se: bool = False,
    groups: int = 1,
    width_per_group: int = 64,
) -> XResNet:
    """The same with a `SelfAttention` behind the last batch norm of a stage's last block.

    Args:
        attention_stages: which of the stages 1 to 4.
        stem, act, shortcut_pool, blur_pool, se, groups, width_per_group: as `xresnet`.
    """
    style = Style(
        act=act,
        shortcut_pool=shortcut_pool,
        blur_pool=blur_pool,
        se=se,
        groups=groups,
        width_per_group=width_per_group,
    )
    return XResNet(
        depth,
        num_classes=num_classes,
        in_channels=in_channels,
        stem=stem,
        style=style,
        attention=SelfAttention,
        attention_stages=chosen("attention_stages", attention_stages, STAGES),
    )


@register_family(
    f"ssa_{NUMBERS}", tuple(f"ssa_xresnet{depth}" for depth in DEPTHS), images=IMAGENET, plain="xresnet{depth}"
)
def ssa_xresnet(
    *,
    depth: int,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    attention_stages: tuple[int, ...] = (1,),
    symmetric: bool = False,
    normalize: bool = False,
    stem: tuple[int, int, int] = (32, 64, 64),
    act: str = "relu",
    shortcut_pool: str = "average",
    blur_pool: bool = False,
    se: bool = False,
    groups: int = 1,
    width_per_group: int = 64,
) -> XResNet:
    """The same with a `SimpleSelfAttention` there.

    Args:
        symmetric, normalize: as `SimpleSelfAttention`.
        attention_stages and the others: as `sa_xresnet`.
    """

    def attention(channels: int) -> SimpleSelfAttention:
        return SimpleSelfAttention(channels, symmetric=symmetric, normalize=normalize)

    style = Style(
        act=act,
        shortcut_pool=shortcut_pool,
        blur_pool=blur_pool,
        se=se,
        groups=groups,
        width_per_group=width_per_group,
    )
    return XResNet(
        depth,
        num_classes=num_classes,
        in_channels=in_channels,
        stem=stem,
        style=style,
        attention=attention,
        attention_stages=chosen("attention_stages", attention_stages, STAGES),
    )
