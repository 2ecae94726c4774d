"""An image as a network sees it, and the way from pixels of the one to pixels of the other.

Letters: C channels, H rows, W columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from attnconv import checks
from attnconv.data import View, image_pixels, prepare_image, view_of
from attnconv.data.view import fit

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class SeenImage:
    """An image resized and cropped for a network."""

    photo: Tensor  # (C, rows, columns) uint8: the image as given, upright
    prepared: Tensor  # (C, H, W) float32, normalised: the network's input
    pixels: Tensor  # (C, H, W) float32, 0 to 1: the same before it was normalised
    view: View

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the image as given."""
        return self.photo.shape[1], self.photo.shape[2]

    def point(self, point: tuple[int, int]) -> tuple[int, int]:
        """Return the row and column in the network's input of ``point``, a row and column of the image as given.

        Raises:
            ValueError: the point lies outside the image, or the crop cuts it away.
        """
        rows, columns = self.size
        if not all(0 <= at < n for at, n in zip(point, self.size, strict=True)):
            raise checks.InputError(
                f"the point must lie in the image of {rows} x {columns} pixels, got {point[0]},{point[1]}"
            )
        if (seen := self.view.seen(point)) is None:
            (top, bottom), (left, right) = self.view.box()
            raise checks.InputError(
                f"the point {point[0]},{point[1]} is cut away before the network sees the image: of its {rows} x "
                f"{columns} pixels, rows {top} to {bottom} and columns {left} to {right} are left"
            )
        return seen


def see_image(image: "Image | Tensor", meta: Mapping[str, Any]) -> SeenImage:
    """Prepare ``image`` like the validation images of a network's training.

    Args:
        image: of Pillow; or (C, H, W) uint8, as `attnconv.data.decode_image` reads it from a file.
        meta: of a checkpoint: channels, image_size, resize_ratio, mean and std.
    Raises:
        ValueError: it cannot be decoded, or has another number of channels.
    """
    decoded = image if isinstance(image, Tensor) else image_pixels(image, meta["channels"])
    size = meta["image_size"], meta["resize_ratio"]
    return SeenImage(
        decoded, prepare_image(decoded, meta), fit(decoded, *size).float() / 255, view_of(decoded.shape[1:], *size)
    )
