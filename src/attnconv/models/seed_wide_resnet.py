"""The Wide-ResNet of Attention-Augmented-Conv2d (2019), for comparison.

Source: the last version of that repository's AA-Wide-ResNet, which reads the paper's "kappa = 2 upsilon = 0.2" as
kappa = 2, upsilon = 0.2; it has widths, an initialisation and a momentum of the last batch norm of its own. Departures:
heads are read in the right order unless ``head_layout`` is "legacy"; maps need not be square; the last map is averaged
as a whole, there in squares of 8, which is the same at 32 px; ``dropout`` is 0 by default, there 0.3.
Letters: B batch, N heads, H rows, W columns, E value channels a head.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from attnconv import checks
from attnconv.layers import AugmentedConv2d
from attnconv.models.blocks import ResidualBlock, Stage, halved
from attnconv.models.registry import Task
from attnconv.models.wide_resnet import WideResNet, blocks_of

STEM = 20
LAST_MOMENTUM = 0.9  # as torch counts: the last batch makes 0.9 of the running averages
HEAD_LAYOUTS = ("correct", "legacy")


class HeadLayoutConv2d(AugmentedConv2d):
    """`AugmentedConv2d` with an attribute ``head_layout``: "correct" or "legacy", which differ where E > 1.

    Source: Attention-Augmented-Conv2d (2019), which mistakes the positions of a head's values for its channels.
    """

    head_layout: str = "correct"

    def extra_repr(self) -> str:
        return super().extra_repr() + (", head_layout='legacy'" if self.head_layout == "legacy" else "")

    def _merge_heads(self, y: Tensor) -> Tensor:
        if self.head_layout == "correct":
            return super()._merge_heads(y)
        # (B, N, H, W, E) read as (B, N, E, H, W), which is right only for E = 1.
        return y.reshape(y.shape[0], -1, *y.shape[2:4])


def augmented_conv(
    in_channels: int, out_channels: int, stride: int, *, feat_size: tuple[int, int], position: str | None
) -> HeadLayoutConv2d:
    """Make a 3x3 convolution with four heads, kappa 2 and upsilon 0.2, whose q, k, v come from a 3x3 convolution."""
    return HeadLayoutConv2d(
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


class SeedBlock(ResidualBlock):
    """Batch norm, ReLU and a convolution, twice, the second with the stride; the shortcut starts at the input.

    Shapes: (B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride), rounded up.

    Args:
        map_size: largest H, W.
        dropout: probability after the first convolution.
        position: as in `AugmentedConv2d`.
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
        return self.drop_path(y) + (x if self.shortcut is None else self.shortcut(x))


def seed_aa_wide_resnet(
    task: Task, *, depth: int, width: int, dropout: float, position: str | None, head_layout: str
) -> WideResNet:
    """Make seed_aa_wide_resnet{depth}_{k}: all convolutions and shortcuts augmented, 20, 20k, 40k and 60k channels.

    Depth 28 and k = 10 give 206M parameters.

    Args:
        dropout: probability after the first convolution of a block.
        position: as in `AugmentedConv2d`.
        head_layout: "correct", or "legacy" for the order in which the program of 2019 read the heads' outputs.
    """
    checks.one_of("head_layout", head_layout, HEAD_LAYOUTS)
    conv1 = augmented_conv(task.in_channels, STEM, 1, feat_size=task.image_size, position=position)
    channels, map_size, stages = STEM, task.image_size, []
    widths = [20 * width, 40 * width, 60 * width]
    for planes in widths:
        layer = Stage()
        for _ in range(blocks_of(depth)):
            stride = 2 if len(layer) == 0 and stages else 1
            layer.append(SeedBlock(channels, planes, stride, map_size=map_size, dropout=dropout, position=position))
            channels, map_size = planes, map_size if stride == 1 else halved(map_size)
        stages.append(layer)
    model = WideResNet(conv1, stages, channels=widths, num_classes=task.num_classes)
    model.bn.momentum = LAST_MOMENTUM
    for module in model.modules():
        if isinstance(module, HeadLayoutConv2d):
            module.head_layout = head_layout
        _initialise(module)
    return model


def _initialise(module: nn.Module) -> None:
    """Initialise a module as that program does."""
    if isinstance(module, HeadLayoutConv2d):
        for table in module.tables or ():
            nn.init.normal_(table)
    elif isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
        nn.init.zeros_(module.bias)
