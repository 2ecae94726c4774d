"""What a file says about the network in it: how to prepare an image, the classes, the run, and the version.

Every format holds the same texts under the same names, so that other programs can read them, too.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attnconv import __version__, checks
from attnconv.models.hub.blueprint import Blueprint, feat_sizes_of
from attnconv.models.image_sizes import Sizes
from attnconv.models.registry import model_options
from attnconv.train.config import LARGEST_IMAGE, RunConfig, without_folders

FORMAT = "1"
CHECKSUM = "attnconv_sha256"  # of the file, where its format has no place for one
# What `ImageData.meta` says that is needed to use a network, beside its classes.
PREPARATION = ("channels", "image_size", "mean", "std", "resize_ratio")
# What the numbers mean, for those who read the file without this library.
RULES = {
    "resize": "shorter side to round(max(image_size) * resize_ratio) pixels, bilinear with antialiasing",
    "crop": "centre, image_size (rows, columns)",
    "normalise": "(value / 255 - mean) / std for each channel",
    "layout": "float32 (batch, channels, rows, columns); 3 channels are red, green, blue, 1 is grey",
}


@dataclass(frozen=True)
class Facts:
    """What a file says beside the network.

    Args:
        config: the run's, or a part of it, as `RunConfig.to_dict` gives it; it names the network and its options. A
            file never holds the folders of images in it.
        meta: of its images, as `ImageData.meta` gives it: classes, channels, image_size, mean, std, resize_ratio.
        sizes: of the images that the network in the file takes; None if there are weights alone.
        scores: plain values of any name that say how good the network is and where it comes from.
        feat_sizes: of position tables that were resized, as a network's `Blueprint` has them; of weights alone.
    Raises:
        InputError: a file with this could not be read back: a value is missing, of another kind or out of its range.
    """

    config: dict[str, Any]
    meta: dict[str, Any]
    sizes: Sizes | None = None
    scores: dict[str, Any] = field(default_factory=dict)
    feat_sizes: Mapping[str, tuple[int, ...]] | None = None

    def __post_init__(self) -> None:
        RunConfig.from_dict(self.config, source="config")
        object.__setattr__(self, "config", _plain("config", self.config))
        object.__setattr__(self, "meta", checked_meta(self.meta))
        object.__setattr__(self, "scores", _plain("scores", self.scores))

    def to_texts(self) -> dict[str, str]:
        """As metadata hold them."""
        told = {"classes", *PREPARATION}
        texts: dict[str, Any] = {
            "classes": self.meta["classes"],
            "preprocessing": {**{name: self.meta[name] for name in PREPARATION}, **RULES},
            "data": {"dense": False, **{name: value for name, value in self.meta.items() if name not in told}},
            "config": without_folders(self.config),
        }
        if self.sizes is not None:
            texts["image_sizes"] = self.sizes.to_dict()
        if self.scores:
            texts["scores"] = self.scores
        if self.feat_sizes:
            texts["feat_sizes"] = self.feat_sizes
        return {
            "attnconv_format": FORMAT,
            "attnconv_version": __version__,
            **{name: json.dumps(value) for name, value in texts.items()},
        }


def read_facts(texts: Mapping[str, str], source: str) -> Facts:
    """What `Facts.to_texts` put into the metadata of ``source``.

    Raises:
        InputError: the file is not of `attnconv export`, of another format, or its metadata are damaged.
    """
    if "attnconv_format" not in texts:
        raise checks.InputError(f"{source} was not written by attnconv export: its metadata hold no 'attnconv_format'")
    if texts["attnconv_format"] != FORMAT:
        raise checks.InputError(
            f"{source} is an export of format {texts['attnconv_format']!r}, this version reads {FORMAT!r}"
        )
    values = {name: _value(texts, name, source) for name in ("classes", "preprocessing", "data", "config")}
    meta = {**values["data"], "classes": values["classes"]}
    if not meta.get("dense"):
        meta.pop("dense", None)
    meta |= {name: values["preprocessing"][name] for name in PREPARATION if name in values["preprocessing"]}
    sizes = None
    if "image_sizes" in texts:
        try:
            sizes = Sizes.from_dict(checks.from_json(texts["image_sizes"]))
        except (ValueError, TypeError, KeyError) as error:
            raise checks.InputError(f"{source} is damaged: its 'image_sizes' cannot be read: {error}") from None
    scores = _value(texts, "scores", source) if "scores" in texts else {}
    tables = feat_sizes_of(_value(texts, "feat_sizes", source), source=source) if "feat_sizes" in texts else None
    try:
        return Facts(values["config"], meta, sizes, scores, tables)
    except checks.InputError as error:
        raise checks.InputError(f"{source}: {error}") from None


def blueprint_of(config: Mapping[str, Any], meta: Mapping[str, Any]) -> Blueprint:
    """Return the blueprint of the network that ``config`` names, for images of ``meta``; InputError for none."""
    name = config.get("model", "")
    return Blueprint(
        name=name,
        num_classes=len(meta["classes"]),
        in_channels=meta["channels"],
        image_size=tuple(meta["image_size"]),
        options={**model_options(name), **config.get("model_options", {})},
    )


def checked_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """``meta`` as plain values; InputError unless it says, without contradiction, how images are prepared."""
    if not isinstance(meta, Mapping):
        raise checks.InputTypeError(f"meta must hold names and values, got {type(meta).__name__}")
    for name in ("classes", *PREPARATION):
        if name not in meta:
            raise checks.InputError(f"meta lacks {name!r}; it needs classes, {', '.join(PREPARATION)}")
    found = _plain("meta", meta)
    classes, channels = found["classes"], checks.integer("meta's 'channels'", found["channels"], at_least=1)
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise checks.InputTypeError(f"meta's 'classes' must be a list of names, got {classes!r}")
    found["image_size"] = list(checks.per_axis("meta's 'image_size'", found["image_size"], 2, at_least=1))
    largest = max(found["image_size"])
    if largest > LARGEST_IMAGE:
        raise checks.InputError(f"meta's 'image_size' must be at most {LARGEST_IMAGE} a side, got {largest}")
    found["resize_ratio"] = checks.number("meta's 'resize_ratio'", found["resize_ratio"])
    for name in ("mean", "std"):
        values = found[name]
        if not isinstance(values, list) or len(values) != channels:
            raise checks.InputError(f"meta's {name!r} must list one number a channel, {channels}, got {values!r}")
        found[name] = [checks.number(f"meta's {name!r}", value) for value in values]
    for name, least in (("std", min(found["std"])), ("resize_ratio", found["resize_ratio"])):
        if least <= 0:
            raise checks.InputError(f"meta's {name!r} must be above 0, got {found[name]!r}")
    if (side := largest * found["resize_ratio"]) > 2 * LARGEST_IMAGE:
        raise checks.InputError(
            f"meta's 'resize_ratio' must resize images to at most {2 * LARGEST_IMAGE} pixels a side, got {side:.3g}"
        )
    return found


def _plain(name: str, value: Any) -> Any:
    """``value`` as it would be read back, arrays and numbers of NumPy and torch as Python's."""

    def listed(item: Any) -> Any:
        if hasattr(item, "tolist"):
            return item.tolist()
        raise checks.InputTypeError(f"{name} must hold plain values (text, numbers, lists, dicts), got {item!r}")

    try:
        return json.loads(json.dumps(value, default=listed))
    except checks.InputTypeError:
        raise
    except (TypeError, ValueError, RecursionError) as error:  # a key that is no text, a value that holds itself
        raise checks.InputTypeError(f"{name} must hold plain values: {checks.first_line(error)}") from None


def _value(texts: Mapping[str, str], name: str, source: str) -> Any:
    kind = list if name == "classes" else dict
    try:
        value = checks.from_json(texts[name])
    except (KeyError, ValueError) as error:
        raise checks.InputError(f"{source} is damaged: its metadata hold no readable {name!r}") from error
    if not isinstance(value, kind):
        raise checks.InputError(f"{source} is damaged: its {name!r} is no {kind.__name__} but {type(value).__name__}")
    return value
