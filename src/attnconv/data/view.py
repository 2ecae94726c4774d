"""The network's view of an image outside training: resized, cropped in the centre, normalised.

Letters: B batch, C channels, H rows, W columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnconv import checks

LONGEST = 16  # times the shorter side; the ends of longer images, far from the centre, are cut off first


@dataclass(frozen=True)
class View:
    """The part of a decoded image that the network sees: cut out, resized and cut again. Pairs are rows, columns."""

    cut: tuple[int, int]  # start of the part that is resized, pixels of the image
    taken: tuple[int, int]  # its size, pixels of the image
    resized: tuple[int, int]  # its size after resizing
    crop: tuple[int, int]  # start of the network's view in that
    size: tuple[int, int]  # of the network's view

    def seen(self, point: Sequence[int]) -> tuple[int, int] | None:
        """Return the pixel of the view at ``point`` (row, column) of the image; None if that is cut off."""
        found = tuple(
            # The centre of the pixel, (2 * at + 1) / 2, in whole numbers.
            ((2 * (at - cut) + 1) * resized - 2 * crop * taken) // (2 * taken)
            for at, cut, taken, resized, crop in zip(point, self.cut, self.taken, self.resized, self.crop, strict=True)
        )
        inside = all(0 <= at < n for at, n in zip(found, self.size, strict=True))
        return (found[0], found[1]) if inside else None

    def unseen(self, point: Sequence[int]) -> tuple[int, int]:
        """Return the pixel of the image at the centre of ``point`` (row, column) of the view."""
        row, column = (
            cut + ((2 * (at + crop) + 1) * taken) // (2 * resized)
            for at, cut, taken, resized, crop in zip(point, self.cut, self.taken, self.resized, self.crop, strict=True)
        )
        return row, column

    def box(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return first and last row, and first and last column, of the image's pixels in the view."""
        rows, columns = (
            # The smallest whole numbers whose centres are not before the crop, and not before its end.
            tuple(-((-2 * edge * taken - (2 * cut - 1) * resized) // (2 * resized)) for edge in (crop, crop + size))
            for cut, taken, resized, crop, size in zip(
                self.cut, self.taken, self.resized, self.crop, self.size, strict=True
            )
        )
        return (rows[0], rows[1] - 1), (columns[0], columns[1] - 1)


def view_of(image: Sequence[int], image_size: Sequence[int], resize_ratio: float) -> View:
    """Return `fit`'s view of an image of ``image`` (rows, columns) pixels; other arguments as `fit`'s."""
    rows, columns = image
    # Only the middle of long thin images: 20,000 x 1 pixels would become 20,000 times as many.
    taken = (min(rows, LONGEST * columns), min(columns, LONGEST * rows))
    short = round(max(image_size) * resize_ratio)
    resized = tuple(short if n == min(taken) else int(short * n / min(taken)) for n in taken)
    if image_size[0] != image_size[1]:
        scale = resize_ratio * max(wanted / n for wanted, n in zip(image_size, taken, strict=True))
        resized = tuple(max(round(n * scale), wanted) for wanted, n in zip(image_size, taken, strict=True))
    size = (image_size[0], image_size[1])
    return View(_middle(image, taken), taken, (resized[0], resized[1]), _middle(resized, size), size)


def _middle(whole: Sequence[int], part: Sequence[int]) -> tuple[int, int]:
    """Return the start of ``part`` in the centre of ``whole``, rounded as in torchvision."""
    row, column = (round((n - m) / 2) for n, m in zip(whole, part, strict=True))
    return row, column


def fit(images: Tensor, image_size: Sequence[int], resize_ratio: float) -> Tensor:
    """Resize images to cover ``resize_ratio`` times ``image_size``, and cut out the centre.

    Args:
        images: (..., C, H, W) uint8.
        image_size: rows and columns, pixels.
        resize_ratio: at least 1; 1 keeps all of a square image, 8/7 leaves a margin.
    Returns:
        (..., C, *image_size) uint8.
    """
    functional = checks.require("torchvision.transforms.v2.functional", extra="train")
    view = view_of(images.shape[-2:], image_size, resize_ratio)
    images = _cut(images, view.cut, view.taken)
    return _cut(functional.resize(images, list(view.resized), antialias=True), view.crop, view.size)


def _cut(images: Tensor, start: tuple[int, int], size: tuple[int, int]) -> Tensor:
    return images[..., start[0] : start[0] + size[0], start[1] : start[1] + size[1]]


class Normalise:
    """Convert uint8 (..., C, H, W) to float32 of mean 0 and standard deviation 1 over the training images.

    It multiplies and adds, because every device rounds these alike.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device | str = "cpu") -> None:
        pairs = list(zip(mean, std, strict=True))
        scale, shift = [1 / (255 * s) for _, s in pairs], [-m / s for m, s in pairs]
        self.scale = torch.tensor(scale, dtype=torch.float32, device=device).view(-1, 1, 1)  # (C, 1, 1)
        self.shift = torch.tensor(shift, dtype=torch.float32, device=device).view(-1, 1, 1)

        self.colour = tuple(round(255 * m) for m in mean)  # uint8 values nearest to 0

    def __call__(self, images: Tensor) -> Tensor:
        return images.to(torch.float32).mul_(self.scale).add_(self.shift)


def require_preparable(meta: Mapping[str, Any]) -> None:
    """Raise InputError if the data set of ``meta`` preprocessed its images by code that is unknown here."""
    if meta.get("prepared"):
        raise checks.InputError(
            f"the network was trained on float tensors that the data set {meta['name']!r} preprocessed itself: how an "
            "image file becomes such a tensor is not known here; preprocess it likewise, and call the network"
        )


def prepare_image(image: Tensor, meta: Mapping[str, Any]) -> Tensor:
    """Return a decoded image, (C, H, W) uint8, as in the validation loader: (C, *image_size) float32.

    Args:
        image: ``decode_image(path, meta["channels"])``.
        meta: ``ImageData.meta()``, also from a checkpoint.
    Raises:
        InputError: ``image`` has another shape or dtype; meta's image size is no size or too large; or as
            `require_preparable`.
    """
    require_preparable(meta)
    if image.dtype != torch.uint8:
        raise checks.InputTypeError(f"image must be uint8, got {image.dtype}")
    if image.ndim != 3 or image.shape[0] != meta["channels"]:
        raise checks.InputError(f"image must be ({meta['channels']}, rows, columns), got {tuple(image.shape)}")
    size = checks.prepared_size("meta's 'image_size'", meta["image_size"])
    return Normalise(meta["mean"], meta["std"])(fit(image, size, meta["resize_ratio"]))
