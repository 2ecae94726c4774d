"""Recognise networks of other programs by their tensors: our network, its size, and our names of the tensors.

Sources: Attention-Augmented-Conv2d (2019), AA-Wide-ResNet/attention_augmented_wide_resnet.py; SimpleSelfAttention
(2019), xresnet.py; fastai 1.0.52 and 2, vision/models/xresnet.py. All XResNets are one Sequential: 0 to 2 the stem, 4
to 7 the stages, the last the classifier. The first two call a block's parts convs, sa and idconv, the third convpath,
whose last part is the attention, and idpath.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from attnconv.models.resnet import BASIC, DEPTHS, STAGES
from attnconv.weights import Shapes

Renaming = Mapping[str, Callable[[re.Match[str]], str]]  # their names, a regular expression, to ours


def _block(match: re.Match[str]) -> str:
    return f"layer{int(match[1]) - 3}.{match[2]}"


def _place(match: re.Match[str], first: int) -> int:
    """Return the place, in our Sequential of convolution, batch norm and ReLU, of their pair of numbers."""
    return 3 * int(match[first]) + int(match[first + 1])


WIDE_RESNET: Renaming = {
    r"layer([123])\.0\.(\d+)\.shortcut\.0\.(.+)": lambda m: f"layer{m[1]}.{m[2]}.shortcut.{m[3]}",
    r"layer([123])\.0\.(\d+)\.((?:conv|bn)[12]\..+)": lambda m: f"layer{m[1]}.{m[2]}.{m[3]}",
    r"bn1\.(.+)": lambda m: f"bn.{m[1]}",
    r"linear\.(.+)": lambda m: f"fc.{m[1]}",
}
XRESNET: Renaming = {
    r"([0-2])\.([01])\.(.+)": lambda m: f"stem.{_place(m, 1)}.{m[3]}",
    r"(?:10|11)\.(weight|bias)": lambda m: f"fc.{m[1]}",
    r"([4-7])\.(\d+)\.(?:convs|convpath)\.(\d{1,2})\.([01])\.(.+)": lambda m: (
        f"{_block(m)}.convs.{_place(m, 3)}.{m[5]}"
    ),
    r"([4-7])\.(\d+)\.(?:sa|convpath\.\d+)\.((?:gamma|conv|query|key|value)\b.*)": (
        lambda m: f"{_block(m)}.attention.{m[3]}"
    ),
    # A pool comes first where the map is halved.
    r"([4-7])\.(\d+)\.(?:idconv|idpath\.\d+)\.([01])\.(.+)": (
        lambda m: f"{_block(m)}.shortcut.{int(m[3]) + (m[1] != '4')}.{m[4]}"
    ),
}


@dataclass(frozen=True)
class Recognised:
    """One of our networks, as far as the state dict of another program determines it.

    Args:
        family: our networks of this kind, for messages.
        pattern: a regular expression of their names.
        name: of the most similar network; None if none has these counts of blocks.
        num_classes, in_channels: read off the last and first weights.
        image_size: side in pixels of the images that the position tables fit; None without tables.
        options: of the network, read off the weights or fixed in that program.
        names: the program's names of the tensors, mapped to ours.
        differs: a known reason why no network of ours has these weights.
    """

    family: str
    pattern: str
    name: str | None
    num_classes: int
    in_channels: int
    image_size: int | None
    names: Mapping[str, str] = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    differs: str | None = None


def recognised(shapes: Shapes) -> Recognised | None:
    """Return the network that has tensors of these names and shapes; None if no known program wrote them."""
    return _wide_resnet(shapes) or _xresnet(shapes)


def _wide_resnet(shapes: Shapes) -> Recognised | None:
    in_channels = _axis(shapes, "conv1.qkv_conv.weight", 4, 1)
    first = _axis(shapes, "layer1.0.0.bn2.weight", 1, 0)
    num_classes = _axis(shapes, "linear.weight", 2, 0)
    if in_channels is None or first is None or num_classes is None:
        return None
    blocks = {found[1] for name in shapes if (found := re.match(r"layer1\.0\.(\d+)\.", name))}
    rows = _axis(shapes, "conv1.key_rel_h", 2, 0)
    return Recognised(
        family="seed_aa_wide_resnet{depth}_{k}",
        pattern=r"seed_aa_wide_resnet\d+_\d+",
        name=f"seed_aa_wide_resnet{6 * len(blocks) + 4}_{first // 20}" if first % 20 == 0 else None,
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=None if rows is None else (rows + 1) // 2,
        names={name: _renamed(name, WIDE_RESNET) for name in shapes},
        options={"head_layout": "legacy"},
        differs=None if "conv1.key_rel_h" in shapes else "the program saved no position tables before 11 May 2019",
    )


def _renamed(name: str, table: Renaming) -> str:
    """Return our name of a tensor."""
    return next((ours(found) for theirs, ours in table.items() if (found := re.fullmatch(theirs, name))), name)


def _xresnet(shapes: Shapes) -> Recognised | None:
    names = {name: _renamed(name, XRESNET) for name in shapes}
    ours = {names[name]: shape for name, shape in shapes.items()}
    in_channels = _axis(ours, "stem.0.weight", 4, 1)
    stem = [_axis(ours, f"stem.{i}.weight", 4, 0) for i in (0, 3, 6)]
    num_classes = _axis(ours, "fc.weight", 2, 0)
    if in_channels is None or None in stem or num_classes is None or not _axis(ours, "layer1.0.convs.0.weight", 4, 0):
        return None
    options: dict[str, object] = {"stem": tuple(stem)}
    attended = [stage for stage in STAGES if any(re.match(rf"layer{stage}\.\d+\.attention\.", name) for name in ours)]
    prefix = ""
    if attended:
        prefix = "sa_" if any(".attention.query." in name for name in ours) else "ssa_"
        options["attention_stages"] = tuple(attended)
    depth = _depth(ours)
    narrow = depth in BASIC and _axis(ours, "layer1.0.convs.0.weight", 4, 2) == 1
    return Recognised(
        family="xresnet{depth}, sa_xresnet{depth}, ssa_xresnet{depth}",
        pattern=r"(s?sa_)?xresnet\d+",
        name=None if depth is None else f"{prefix}xresnet{depth}",
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=None,
        names=names,
        options=options,
        differs="fastai 1's basic blocks begin with a 1x1 convolution, those here with a 3x3" if narrow else None,
    )


def _depth(ours: Shapes) -> int | None:
    """Return the depth that has these counts of blocks, basic ones or bottlenecks; None if there is none."""
    blocks = tuple(
        len({found[1] for name in ours if (found := re.match(rf"layer{stage}\.(\d+)\.convs\.", name))})
        for stage in STAGES
    )
    basic = "layer1.0.convs.6.weight" not in ours
    return next((n for n, counts in DEPTHS.items() if tuple(counts) == blocks and (n in BASIC) == basic), None)


def _axis(shapes: Shapes, name: str, axes: int, at: int) -> int | None:
    """Return axis ``at`` of the tensor ``name``; None if it is missing or has another number of ``axes``."""
    shape = shapes.get(name, ())
    return shape[at] if len(shape) == axes and min(shape) > 0 else None
