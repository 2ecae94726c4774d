"""A network read back from an ONNX or .pt2 file, and the config that the file holds beside it.

The config is that of the saved form, `attnconv.models.saved`, as one JSON text under KEY, with the image sizes that the
file accepts and, for readers without this library, the meaning of the numbers in ``meta``.
Letters: B batch, C channels, H rows, W columns.
"""

import json
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from attnconv import __version__, checks
from attnconv.models.image_sizes import Sizes
from attnconv.models.saved import checked, checked_meta

KEY = "attnconv"
RULES = {
    "resize": "shorter side to round(max(image_size) * resize_ratio) pixels, or, where rows and columns of image_size "
    "differ, until both are covered resize_ratio times; bilinear with antialiasing",
    "crop": "centre, image_size (rows, columns)",
    "normalise": "(value / 255 - mean) / std for each channel",
    "layout": "float32 (batch, channels, rows, columns); 3 channels are red, green, blue, 1 is grey",
}


def config_text(config: dict[str, Any], sizes: Sizes) -> str:
    """Return the text of a file under KEY."""
    return json.dumps({**config, "version": __version__, "image_sizes": sizes.to_dict(), "preprocessing": RULES})


def read_config(text: str, source: str) -> tuple[dict[str, Any], Sizes]:
    """Return the config and the sizes of `config_text`.

    Raises:
        InputError: ``text`` is empty, because `attnconv export` did not write the file, or damaged.
    """
    if not text:
        raise checks.InputError(f"{source} was not written by attnconv export: its metadata hold no {KEY!r}")
    damaged = f"{source} is damaged: its {KEY!r} cannot be read"
    with checks.explained(damaged, ValueError, TypeError, KeyError, AttributeError), checks.prefixed(damaged):
        config = checks.from_json(text)
        sizes = Sizes.from_dict(config.pop("image_sizes"))
        config.pop("preprocessing", None)
    config = checked(config, source=source)
    with checks.prefixed(source):
        return {**config, "meta": checked_meta(config["meta"])}, sizes


class ExportedNetwork(nn.Module):
    """A network that a runtime computes on the CPU, without gradients: (B, C, H, W) -> logits, float32.

    Attributes:
        config: of `attnconv.models.saved`; ``meta`` and ``provenance`` are parts of it.
        sizes: of the images that it accepts.

    Args:
        call: the runtime's function.
        config: of `read_config`.
        sizes: of `read_config`.
        source: the file.
        widths: channels of images and logits in the file.
    Raises:
        InputError: here if ``config`` does not fit ``widths``; in forward for images of another size, and for logits
            that are not one finite number a class.
    """

    def __init__(
        self,
        call: Callable[[Tensor], Tensor],
        config: dict[str, Any],
        sizes: Sizes,
        *,
        source: str,
        widths: tuple[object, object],
    ) -> None:
        super().__init__()
        self.call, self.config, self.sizes, self.source = call, config, sizes, source
        self.meta, self.provenance = config["meta"], config["provenance"]
        self.channels, self.classes = self.meta["channels"], len(self.meta["classes"])
        said = (self.channels, self.classes)
        for what, own, has in zip(("image channels", "names of classes"), said, widths, strict=True):
            if own != has:
                raise checks.InputError(f"{source} is damaged: it has {own} {what}, and its network is of {has}")
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise checks.InputError(
                f"{self.source} takes (B, {self.channels}, rows, columns), got {tuple(images.shape)}"
            )
        if (reason := self.sizes.why_not(images.shape[2:])) is not None:
            raise checks.InputError(f"{self.source} cannot take images of this size: {reason}")
        logits = self.call(images)
        if logits.ndim not in (2, 4) or logits.shape[1] != self.classes:
            raise checks.InputError(
                f"{self.source} gives {tuple(logits.shape)}, which is not one number for each of {self.classes} classes"
            )
        if not logits.isfinite().all():
            raise checks.InputError(f"{self.source} gives numbers that are not finite: it, or an image, is damaged")
        return logits
