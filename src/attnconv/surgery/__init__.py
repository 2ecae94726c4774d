"""Surgery: attention in existing networks, torchvision's, timm's or your own."""

from attnconv.layers.attention import no_weight_decay
from attnconv.surgery.add_self_attention import add_self_attention
from attnconv.surgery.augment import augment, resize_feat_size
from attnconv.surgery.network import Attended, Change, Changes
from attnconv.surgery.steps import apply_steps

__all__ = [
    "Attended",
    "Change",
    "Changes",
    "add_self_attention",
    "apply_steps",
    "augment",
    "no_weight_decay",
    "resize_feat_size",
]
