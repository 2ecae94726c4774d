"""The view of an image that the network gets outside training: resized, cropped in the centre, normalised.

Letters: B batch, C channels, H rows, W columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnconv import checks

LONGEST = 16  # times the shorter side: of longer images the ends, which are far outside the centre, are cut off first


@dataclass(frozen=True)
class View:
    """The part of a decoded image that the network sees: cut out, resized, and cut again. Pairs are rows, columns."""

    cut: tuple[int, int]  # where the part that is resized begins, pixels of the image
    taken: tuple[int, int]  # its size, pixels of the image
    resized: tuple[int, int]  # what it becomes
    crop: tuple[int, int]  # where what the network sees begins in that
    size: tuple[int, int]  # of what the network sees

    def seen(self, point: Sequence[int]) -> tuple[int, int] | None:
        """Return the pixel that the network sees where ``point`` (row, column) of the image was; None if cut away."""
        found = tuple(
            # The centre of the pixel, (2 * at + 1) / 2, in whole numbers.
            ((2 * (at - cut) + 1) * resized - 2 * crop * taken) // (2 * taken)
            for at, cut, taken, resized, crop in zip(point, self.cut, self.taken, self.resized, self.crop, strict=True)
        )
        inside = all(0 <= at < n for at, n in zip(found, self.size, strict=True))
        return (found[0], found[1]) if inside else None

    def unseen(self, point: Sequence[int]) -> tuple[int, int]:
        """Return the pixel of the image at the centre of ``point`` (row, column) of what the network sees."""
        row, column = (
            cut + ((2 * (at + crop) + 1) * taken) // (2 * resized)
            for at, cut, taken, resized, crop in zip(point, self.cut, self.taken, self.resized, self.crop, strict=True)
        )
        return row, column

    def box(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return first and last row, first and last column of the image's pixels that `seen` finds."""
        rows, columns = (
            # The least whole numbers whose centres are not before the crop, and not before its end.
            tuple(-((-2 * edge * taken - (2 * cut - 1) * resized) // (2 * resized)) for edge in (crop, crop + size))
            for cut, taken, resized, crop, size in zip(
                self.cut, self.taken, self.resized, self.crop, self.size, strict=True
            )
        )
        return (rows[0], rows[1] - 1), (columns[0], columns[1] - 1)


def view_of(image: Sequence[int], image_size: Sequence[int], resize_ratio: float) -> View:
    """Return what `fit` takes from an image of ``image`` (rows, columns) pixels; the other arguments are its."""
    rows, columns = image
    # Of long thin images only the middle, or 20,000 x 1 pixels would become 20,000 times as many.
    taken = (min(rows, LONGEST * columns), min(columns, LONGEST * rows))
    short = round(max(image_size) * resize_ratio)
    resized = tuple(short if n == min(taken) else int(short * n / min(taken)) for n in taken)
    if image_size[0] != image_size[1]:
        scale = resize_ratio * max(wanted / n for wanted, n in zip(image_size, taken, strict=True))
        resized = tuple(max(round(n * scale), wanted) for wanted, n in zip(image_size, taken, strict=True))
    size = (image_size[0], image_size[1])
    return View(_middle(image, taken), taken, (resized[0], resized[1]), _middle(resized, size), size)


def _middle(whole: Sequence[int], part: Sequence[int]) -> tuple[int, int]:
    """Return where ``part`` begins in the centre of ``whole``, rounded as torchvision rounds it."""
    row, column = (round((n - m) / 2) for n, m in zip(whole, part, strict=True))
    return row, column


def fit(images: Tensor, image_size: Sequence[int], resize_ratio: float) -> Tensor:
    """Resize images so that they cover ``resize_ratio`` times the size wanted, and cut out the centre.

    Args:
        images: (..., C, H, W) uint8.
        image_size: rows and columns wanted, pixels.
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
    """uint8 (..., C, H, W) -> float32 of mean 0 and standard deviation 1 over the training images.

    A multiplication and an addition rather than two divisions: each is rounded alike on every device.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device | str = "cpu") -> None:
        pairs = list(zip(mean, std, strict=True))
        scale, shift = [1 / (255 * s) for _, s in pairs], [-m / s for m, s in pairs]
        self.scale = torch.tensor(scale, dtype=torch.float32, device=device).view(-1, 1, 1)  # (C, 1, 1)
        self.shift = torch.tensor(shift, dtype=torch.float32, device=device).view(-1, 1, 1)

        self.colour = tuple(round(255 * m) for m in mean)  # the uint8 values that come nearest to 0

    def __call__(self, images: Tensor) -> Tensor:
        return images.to(torch.float32).mul_(self.scale).add_(self.shift)


def require_preparable(meta: Mapping[str, Any]) -> None:
    """Raise InputError if code that a network does not carry preprocessed the images that ``meta`` describes."""
    if meta.get("prepared"):
        raise checks.InputError(
            f"the network was trained on float tensors that the data set {meta['name']!r} preprocessed itself: how an "
            "image file becomes such a tensor is not known here; preprocess it likewise, and call the network"
        )


def prepare_image(image: Tensor, meta: Mapping[str, Any]) -> Tensor:
    """Return one decoded image, (C, H, W) uint8, as the validation loader gives it: (C, *image_size) float32.

    Args:
        image: of ``decode_image(path, meta["channels"])``.
        meta: of ``ImageData.meta()``, as a checkpoint holds it.
    Raises:
        InputError: ``image`` has another shape or another type of numbers; or as `require_preparable`.
    """
    require_preparable(meta)
    if image.dtype != torch.uint8:
        raise checks.InputTypeError(f"image must be uint8, got {image.dtype}")
    if image.ndim != 3 or image.shape[0] != meta["channels"]:
        raise checks.InputError(f"image must be ({meta['channels']}, rows, columns), got {tuple(image.shape)}")
    return Normalise(meta["mean"], meta["std"])(fit(image, meta["image_size"], meta["resize_ratio"]))
