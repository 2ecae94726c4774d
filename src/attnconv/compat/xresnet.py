"""The names of SimpleSelfAttention's and of fastai's XResNets, and what their weights say of their size.

Sources: SimpleSelfAttention (2019), xresnet.py; fastai 1.0.52 and 2, vision/models/xresnet.py. All are one Sequential:
0 to 2 the stem, 4 to 7 the stages, the last the classifier. The first two call a block's parts convs, sa and idconv,
the third convpath, whose last part is the attention, and idpath.
"""

import re

from attnconv.compat.seen import Seen, axis
from attnconv.models.resnet import BASIC, DEPTHS, STAGES
from attnconv.weights import Shapes

STEM = re.compile(r"([0-2])\.([01])\.(.+)")
BLOCK = re.compile(r"([4-7])\.(\d+)\.(.+)")
CONV = re.compile(r"(?:convs|convpath)\.(\d+)\.([01])\.(.+)")
ATTENTION = re.compile(r"(?:sa|convpath\.\d+)\.((?:gamma|conv|query|key|value)\b.*)")
SHORTCUT = re.compile(r"(?:idconv|idpath\.\d+)\.([01])\.(.+)")
CLASSIFIER = re.compile(r"(?:10|11)\.(weight|bias)")


def seen(shapes: Shapes) -> Seen | None:
    """The network that tensors of these names and shapes are of; None if they are of another program."""
    names = {name: renamed(name) for name in shapes}
    ours = {names[name]: shape for name, shape in shapes.items()}
    in_channels = axis(ours, "stem.0.weight", 4, 1)
    stem = [axis(ours, f"stem.{i}.weight", 4, 0) for i in (0, 3, 6)]
    num_classes = axis(ours, "fc.weight", 2, 0)
    if (
        in_channels is None
        or None in stem
        or num_classes is None
        or axis(ours, "layer1.0.convs.0.weight", 4, 0) is None
    ):
        return None
    options: dict[str, object] = {"stem": tuple(stem)}
    attended = [stage for stage in STAGES if any(re.match(rf"layer{stage}\.\d+\.attention\.", name) for name in ours)]
    prefix = ""
    if attended:
        prefix = "sa_" if any(".attention.query." in name for name in ours) else "ssa_"
        options["attention_stages"] = tuple(attended)
    depth = _depth(ours)
    return Seen(
        family="xresnet{depth}, sa_xresnet{depth}, ssa_xresnet{depth}",
        pattern=r"(s?sa_)?xresnet\d+",
        name=None if depth is None else f"{prefix}xresnet{depth}",
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=None,
        names=names,
        options=options,
    )


def renamed(name: str) -> str:
    """Our name of a tensor."""
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
    """The depth whose numbers of blocks these are, basic ones or bottlenecks."""
    blocks = tuple(
        len({found[1] for name in ours if (found := re.match(rf"layer{stage}\.(\d+)\.convs\.", name))})
        for stage in STAGES
    )
    basic = "layer1.0.convs.6.weight" not in ours
    return next((n for n, counts in DEPTHS.items() if tuple(counts) == blocks and (n in BASIC) == basic), None)
