"""The names of Attention-Augmented-Conv2d's Wide_ResNet (2019), and what its weights say of its size.

Source: its AA-Wide-ResNet/attention_augmented_wide_resnet.py.
"""

import re

from attnconv.compat.seen import Seen, axis
from attnconv.weights import Shapes

RENAMED = (
    (re.compile(r"layer([123])\.0\.(\d+)\.shortcut\.0\.(.+)"), r"layer\1.\2.shortcut.\3"),
    (re.compile(r"layer([123])\.0\.(\d+)\.((?:conv|bn)[12]\..+)"), r"layer\1.\2.\3"),
    (re.compile(r"bn1\.(.+)"), r"bn.\1"),
    (re.compile(r"linear\.(.+)"), r"fc.\1"),
)


def seen(shapes: Shapes) -> Seen | None:
    """The network that tensors of these names and shapes are of; None if they are of another program."""
    in_channels = axis(shapes, "conv1.qkv_conv.weight", 4, 1)
    first = axis(shapes, "layer1.0.0.bn2.weight", 1, 0)
    num_classes = axis(shapes, "linear.weight", 2, 0)
    if in_channels is None or first is None or num_classes is None:
        return None
    blocks = {found[1] for name in shapes if (found := re.match(r"layer1\.0\.(\d+)\.", name))}
    rows = axis(shapes, "conv1.key_rel_h", 2, 0)
    return Seen(
        family="seed_aa_wide_resnet{depth}_{k}",
        pattern=r"seed_aa_wide_resnet\d+_\d+",
        name=f"seed_aa_wide_resnet{6 * len(blocks) + 4}_{first // 20}" if first % 20 == 0 else None,
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=None if rows is None else (rows + 1) // 2,
        names={name: renamed(name) for name in shapes},
        options={"head_layout": "legacy"},
    )


def renamed(name: str) -> str:
    """Our name of a tensor."""
    for pattern, ours in RENAMED:
        if found := pattern.fullmatch(name):
            return found.expand(ours)
    return name
