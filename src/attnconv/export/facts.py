"""What a file says about the network in it: how to prepare an image, the classes, the run, and the version.

Every format holds the same texts under the same names, so that other programs can read them, too.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attnconv import __version__, checks
from attnconv.export.sizes import Sizes
from attnconv.train.config import without_folders

FORMAT = "1"
CHECKSUM = "attnconv_sha256"  # of the file, where its format has no place for one
# What `ImageData.meta` says that is needed to use a network, and its type.
PREPARATION = {"channels": int, "image_size": list, "mean": list, "std": list, "resize_ratio": float}
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
        config: the run's, plain values as `RunConfig.to_dict` gives them; it names the network and its options. A file
            never holds the folders of images in it.
        meta: of its images, as `ImageData.meta` gives it: classes, channels, image_size, mean, std, resize_ratio.
        sizes: of the images that the network in the file takes; None if there are weights alone.
        scores: plain values of any name that say how good the network is and where it comes from.
    """

    config: dict[str, Any]
    meta: dict[str, Any]
    sizes: Sizes | None = None
    scores: dict[str, Any] = field(default_factory=dict)

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
    for name, kind in PREPARATION.items():
        if not isinstance(found := values["preprocessing"].get(name), kind):
            raise checks.InputError(f"{source} is damaged: {name!r} of its 'preprocessing' is {found!r}")
        meta[name] = found
    sizes = None
    if "image_sizes" in texts:
        try:
            sizes = Sizes.from_dict(json.loads(texts["image_sizes"]))
        except (ValueError, TypeError, KeyError) as error:
            raise checks.InputError(f"{source} is damaged: its 'image_sizes' cannot be read: {error}") from None
    scores = _value(texts, "scores", source) if "scores" in texts else {}
    return Facts(values["config"], meta, sizes, scores)


def _value(texts: Mapping[str, str], name: str, source: str) -> Any:
    kind = list if name == "classes" else dict
    try:
        value = json.loads(texts[name])
    except (KeyError, ValueError) as error:
        raise checks.InputError(f"{source} is damaged: its metadata hold no readable {name!r}") from error
    if not isinstance(value, kind):
        raise checks.InputError(f"{source} is damaged: its {name!r} is no {kind.__name__} but {type(value).__name__}")
    return value
