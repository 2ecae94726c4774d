"""What the network sees of an image outside training: resized, cropped in the centre, normalised.

Letters: B batch, C channels, H rows, W columns.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from attnconv import checks

LONGEST = 16  # times the shorter side: of longer images the ends, which are far outside the centre, are cut off first


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
    rows, columns = images.shape[-2:]
    if max(rows, columns) > LONGEST * min(rows, columns):  # or 20,000 x 1 pixels would become 20,000 times as many
        images = functional.center_crop(images, [min(rows, LONGEST * columns), min(columns, LONGEST * rows)])
    size = [round(max(image_size) * resize_ratio)]  # of the shorter side
    if image_size[0] != image_size[1]:
        scale = resize_ratio * max(wanted / n for wanted, n in zip(image_size, images.shape[-2:], strict=True))
        size = [max(round(n * scale), wanted) for wanted, n in zip(image_size, images.shape[-2:], strict=True)]
    return functional.center_crop(functional.resize(images, size, antialias=True), list(image_size))


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


def prepare_image(image: Tensor, meta: Mapping[str, Any]) -> Tensor:
    """One decoded image, (C, H, W) uint8, as the validation loader gives it: (C, *image_size) float32.

    Args:
        image: of ``decode_image(path, meta["channels"])``.
        meta: of ``ImageData.meta()``, as a checkpoint holds it.
    Raises:
        InputError: ``image`` has another shape or another type of numbers.
    """
    if image.dtype != torch.uint8:
        raise checks.InputTypeError(f"image must be uint8, got {image.dtype}")
    if image.ndim != 3 or image.shape[0] != meta["channels"]:
        raise checks.InputError(f"image must be ({meta['channels']}, rows, columns), got {tuple(image.shape)}")
    return Normalise(meta["mean"], meta["std"])(fit(image, meta["image_size"], meta["resize_ratio"]))
