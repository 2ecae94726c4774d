"""The networks of this library by name: their options with defaults, and the images that they were published for.

A table, so that the command line can list names and refuse unknown ones without loading torch. `attnconv.models` makes
the networks: a builder there is called with a Task and, by keyword, the integers in the name and all options.
"""

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attnconv import checks, extensions

GROUP = "attnconv.models"  # of entry points
DIGITS = 9  # of an integer in a name; Python reads at most a few thousand


@dataclass(frozen=True)
class Images:
    """The task of a network: number of classes, and side of the images in pixels."""

    num_classes: int
    image_size: int


CIFAR100 = Images(100, 32)
IMAGENET = Images(1000, 224)
IMAGEWOOF = Images(10, 128)  # where attention in XResNets was published
PIXELS = Images(2, 64)  # no paper has these networks


@dataclass(frozen=True)
class Family:
    """One builder and every name that it answers to.

    Args:
        name: the name, with {depth} and {width} where it has integers.
        builder: FILE:FUNCTION of `attnconv.models`.
        listed: the names that `list_models` shows, by their integers; with a depth alone, these are all.
        images: those it was published for, or is tried on if for nothing.
        options: the builder's, with their defaults.
        fixed: further arguments of the builder, which are no options.
        dense: it gives logits (B, num_classes, rows, columns).
        plain: the same network without attention, whose first weights it shares, written as ``name``.
        weights: the library that has trained weights of the network, or of the plain one.
    """

    name: str
    builder: str
    images: Images
    listed: tuple[tuple[int, ...], ...] = ((),)
    options: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    dense: bool = False
    plain: str | None = None
    weights: str | None = None

    def numbers(self, name: str) -> dict[str, int] | None:
        """Return the integers in ``name``; None if it is no name of this family."""
        known = "|".join(str(number) for numbers in self.listed for number in numbers)
        depths = r"[1-9]\d*" if "{width}" in self.name else known
        pattern = self.name.format(depth=f"(?P<depth>{depths})", width=r"(?P<width>[1-9]\d*)")
        if (match := re.fullmatch(pattern, name)) is None:
            return None
        if len(longest := max(match.groups(), key=len, default="")) > DIGITS:
            raise checks.InputError(f"integers in a network's name have at most {DIGITS} digits, got {len(longest)}")
        return {key: int(digits) for key, digits in match.groupdict().items()}

    @property
    def names(self) -> list[str]:
        """The listed names."""
        keys = re.findall(r"{(\w+)}", self.name)
        return [self.name.format(**dict(zip(keys, numbers, strict=True))) for numbers in self.listed]


# Of all augmented convolutions of a network: the paper's ratios; those of networks of a few channels, and of ResNet-34.
PAPER = {"key_ratio": 0.2, "value_ratio": 0.1, "num_heads": 8, "min_head_dim": 20, "position": "relative"}
SMALL = {"key_ratio": 0.5, "value_ratio": 0.25, "num_heads": 4, "min_head_dim": 16, "position": "relative"}
QUARTERS = {**PAPER, "key_ratio": 0.25, "value_ratio": 0.25}

WIDE = {"shortcut": "pad", "dropout": 0.0}
XRESNET = {
    "stem": (32, 64, 64),
    "act": "relu",
    "shortcut_pool": "average",
    "blur_pool": False,
    "se": False,
    "groups": 1,
    "width_per_group": 64,
    "output_stride": 32,
}
WIDE_SIZES = ((28, 10), (16, 4), (22, 6), (40, 2))
BASIC, BOTTLENECK = ((18,), (34,)), ((50,), (101,), (152,))
DEPTHS = BASIC + BOTTLENECK
STRIDE = {"output_stride": 32}
SE = {"se": True}


def _aa_resnet(listed: tuple[tuple[int, ...], ...], augmentation: Mapping[str, Any]) -> Family:
    options = {"stages": (2, 3, 4), **augmentation, "pool_first": True, **STRIDE}
    return _with_attention("aa_resnet{depth}", "resnet:ResNet", IMAGENET, listed, options, weights="torchvision")


def _with_attention(name: str, *row: Any, **more: Any) -> Family:
    """Return a family whose plain networks have the same names without the prefix."""
    return Family(name, *row, plain=name.partition("_")[2], **more)


FAMILIES = [
    Family("convnet3", "convnet3:convnet3", CIFAR100),
    _with_attention("aa_convnet3", "convnet3:convnet3", CIFAR100, options={"augment": (2, 3), **SMALL}),
    Family("unet", "unet:unet", PIXELS, dense=True),
    _with_attention("aa_unet", "unet:unet", PIXELS, options=SMALL, dense=True),
    Family("resnet{depth}", "resnet:ResNet", IMAGENET, DEPTHS, STRIDE, weights="torchvision"),
    _with_attention("se_resnet{depth}", "resnet:ResNet", IMAGENET, DEPTHS, STRIDE, SE, weights="torchvision"),
    _aa_resnet(BASIC, QUARTERS),
    _aa_resnet(BOTTLENECK, PAPER),
    Family("xresnet{depth}", "xresnet:xresnet", IMAGEWOOF, DEPTHS, XRESNET),
    _with_attention(
        "sa_xresnet{depth}", "xresnet:sa_xresnet", IMAGEWOOF, DEPTHS, {"attention_stages": (1,), **XRESNET}
    ),
    _with_attention(
        "ssa_xresnet{depth}",
        "xresnet:ssa_xresnet",
        IMAGEWOOF,
        DEPTHS,
        {"attention_stages": (1,), "symmetric": False, "normalize": False, **XRESNET},
    ),
    Family("wide_resnet{depth}_{width}", "wide_resnet:wide_resnet", CIFAR100, WIDE_SIZES, WIDE),
    _with_attention("se_wide_resnet{depth}_{width}", "wide_resnet:wide_resnet", CIFAR100, WIDE_SIZES[:1], WIDE, SE),
    _with_attention(
        "aa_wide_resnet{depth}_{width}",
        "wide_resnet:wide_resnet",
        CIFAR100,
        WIDE_SIZES,
        {**WIDE, "stages": (1, 2, 3), **PAPER},
    ),
    Family(
        "seed_aa_wide_resnet{depth}_{width}",
        "seed_wide_resnet:seed_aa_wide_resnet",
        CIFAR100,
        WIDE_SIZES[:1],
        {"dropout": 0.0, "position": "relative", "head_layout": "correct"},
    ),
]
REGISTERED: dict[str, Any] = {}  # the NetworkSource of each name that a user has registered


def own(name: str) -> tuple[Family, dict[str, int]] | None:
    """Return the family of ``name`` and the integers in it; None if it is none of this library's."""
    found = ((family, family.numbers(name)) for family in FAMILIES)
    return next(((family, numbers) for family, numbers in found if numbers is not None), None)


def find(name: str) -> tuple[Family, dict[str, int]] | None:
    """Return what `own` does, and None if another library, an installed package or the user makes the network.

    Raises:
        InputError: nobody makes it; the nearest name is in the message.
    """
    if (found := own(name)) is None and ":" not in name and name not in (*REGISTERED, *extensions.offered(GROUP)):
        near = checks.nearest(name, [*list_models(), *list_models(dense=True)])
        raise checks.InputError(f"unknown model {name!r}; {near}; a network of your own is package.module:function")
    return found


def require_known(name: str, options: Mapping[str, Any]) -> None:
    """Raise InputError if nobody makes the network, or if it is ours and has no such options."""
    if (found := find(name)) is not None:
        for option in options:
            checks.one_of(f"option of {name}:", option, found[0].options)


def list_models(pattern: str = "*", *, dense: bool = False) -> list[str]:
    """Return names that match a shell pattern, sorted; a family such as wide_resnet{depth}_{k} has more than these.

    Args:
        pattern: such as ``aa_*``.
        dense: those of networks that give each pixel a class, in place of those with a class an image.
    """
    listed = [name for family in FAMILIES if family.dense == dense for name in family.names]
    listed += [name for name, source in REGISTERED.items() if source.dense == dense]
    if not dense:
        listed += [name for name in extensions.offered(GROUP) if name not in listed]
    return sorted(fnmatch.filter(listed, pattern))
