"""Networks of other programs recognised by their tensors: which of ours each is, its size, and our names.

Sources: Attention-Augmented-Conv2d (2019), AA-Wide-ResNet/attention_augmented_wide_resnet.py; SimpleSelfAttention
(2019), xresnet.py; fastai 1.0.52 and 2, vision/models/xresnet.py. All XResNets are one Sequential: 0 to 2 the stem, 4
to 7 the stages, the last the classifier. The first two call a block's parts convs, sa and idconv, the third convpath,
whose last part is the attention, and idpath.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attnconv.models.resnet import BASIC, DEPTHS, STAGES
from attnconv.weights import Shapes

WIDE_RESNET = (
    (re.compile(r"layer([123])\.0\.(\d+)\.shortcut\.0\.(.+)"), r"layer\1.\2.shortcut.\3"),
    (re.compile(r"layer([123])\.0\.(\d+)\.((?:conv|bn)[12]\..+)"), r"layer\1.\2.\3"),
    (re.compile(r"bn1\.(.+)"), r"bn.\1"),
    (re.compile(r"linear\.(.+)"), r"fc.\1"),
)
STEM = re.compile(r"([0-2])\.([01])\.(.+)")
BLOCK = re.compile(r"([4-7])\.(\d+)\.(.+)")
CONV = re.compile(r"(?:convs|convpath)\.(\d+)\.([01])\.(.+)")
ATTENTION = re.compile(r"(?:sa|convpath\.\d+)\.((?:gamma|conv|query|key|value)\b.*)")
SHORTCUT = re.compile(r"(?:idconv|idpath\.\d+)\.([01])\.(.+)")
CLASSIFIER = re.compile(r"(?:10|11)\.(weight|bias)")


@dataclass(frozen=True)
class Recognised:
    """A network of ours, as far as the state dict of another program tells.

    Args:
        family: our networks of this kind, as a message names them.
        pattern: a regular expression of their names.
        name: of the one that it looks like; None if the counts of its blocks are of none.
        num_classes, in_channels: of its first and last weights.
        image_size: side of the images that its position tables were made for, in pixels; None without tables.
        options: of the network, read off the weights or as that program had them.
        names: the program's names of the tensors, to ours.
    """

    family: str
    pattern: str
    name: str | None
    num_classes: int
    in_channels: int
    image_size: int | None
    names: Mapping[str, str] = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)


def recognised(shapes: Shapes) -> Recognised | None:
    """Return the network that tensors of these names and shapes are of; None if they are of no known program."""
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
        names={name: _in_wide_resnet(name) for name in shapes},
        options={"head_layout": "legacy"},
    )


def _in_wide_resnet(name: str) -> str:
    """Return our name of a tensor."""
    for pattern, ours in WIDE_RESNET:
        if found := pattern.fullmatch(name):
            return found.expand(ours)
    return name


def _xresnet(shapes: Shapes) -> Recognised | None:
    names = {name: _in_xresnet(name) for name in shapes}
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
    return Recognised(
        family="xresnet{depth}, sa_xresnet{depth}, ssa_xresnet{depth}",
        pattern=r"(s?sa_)?xresnet\d+",
        name=None if depth is None else f"{prefix}xresnet{depth}",
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=None,
        names=names,
        options=options,
    )


def _in_xresnet(name: str) -> str:
    """Return our name of a tensor."""
    if found := STEM.fullmatch(name):
        return f"stem.{3 * int(found[1]) + int(found[2])}.{found[3]}"
    if found := CLASSIFIER.fullmatch(name):
        return f"fc.{found[1]}"
    if not (block := BLOCK.fullmatch(name)):
        return name
    stage, here = int(block[1]) - 3, f"layer{int(block[1]) - 3}.{block[2]}"
    if found := CONV.fullmatch(block[3]):
        return f"{here}.convs.{3 * int(found[1]) + int(found[2])}.{found[3]}"
    if found := ATTENTION.fullmatch(block[3]):
        return f"{here}.attention.{found[1]}"
    if found := SHORTCUT.fullmatch(block[3]):
        pool = 0 if stage == 1 else 1  # comes first where the map is halved
        return f"{here}.shortcut.{pool + int(found[1])}.{found[2]}"
    return name


def _depth(ours: Shapes) -> int | None:
    """Return the depth whose numbers of blocks these are, basic ones or bottlenecks."""
    blocks = tuple(
        len({found[1] for name in ours if (found := re.match(rf"layer{stage}\.(\d+)\.convs\.", name))})
        for stage in STAGES
    )
    basic = "layer1.0.convs.6.weight" not in ours
    return next((n for n, counts in DEPTHS.items() if tuple(counts) == blocks and (n in BASIC) == basic), None)


def _axis(shapes: Shapes, name: str, axes: int, at: int) -> int | None:
    """Return axis ``at`` of the tensor ``name``, if it is there and has as many ``axes``."""
    shape = shapes.get(name, ())
    return shape[at] if len(shape) == axes and min(shape) > 0 else None
