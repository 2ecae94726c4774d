"""An image as a network sees it, and the way from pixels of the one to pixels of the other.

Letters: C channels, H rows, W columns.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from attnconv import checks
from attnconv.data import View, image_pixels, prepare_image, view_of
from attnconv.data.view import fit

if TYPE_CHECKING:
    from PIL.Image import Image

LEAST_SHARE = 0.5  # of an image's area that the network sees: below it, pictures show that part alone


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

    @property
    def middle(self) -> tuple[int, int]:
        """Row and column of the middle of the image as given; of an image of few pixels, the nearest that is seen."""
        row, column = (
            min(max(n // 2, first), last) for n, (first, last) in zip(self.size, self.view.box(), strict=True)
        )
        return row, column

    @property
    def share(self) -> float:
        """Share of the image's area that the network sees."""
        return math.prod(last + 1 - first for first, last in self.view.box()) / math.prod(self.size)

    @property
    def drawn(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """First and last row, first and last column in pictures: all, or the part that is seen if it is under half."""
        return self.view.box() if self.share < LEAST_SHARE else ((0, self.size[0] - 1), (0, self.size[1] - 1))

    @property
    def remark(self) -> str:
        """A clause about the part that the network sees; "" if that is at least half of the image."""
        if self.share >= LEAST_SHARE:
            return ""
        names = zip(("rows", "columns"), self.view.box(), self.size, strict=True)
        cut = ", ".join(f"{name} {first} to {last}" for name, (first, last), n in names if last + 1 - first < n)
        percent = f"{100 * self.share:.0f}" if self.share >= 0.01 else f"{100 * self.share:.1g}"
        return f"the network sees {percent} % of this photo: {cut}"

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
        ValueError: it cannot be decoded, has another number of channels, or is so narrow that no pixel is seen whole.
    """
    decoded = image if isinstance(image, Tensor) else image_pixels(image, meta["channels"])
    prepared = prepare_image(decoded, meta)
    size = meta["image_size"], meta["resize_ratio"]
    view = view_of(decoded.shape[1:], *size)
    if any(first > last for first, last in view.box()):
        rows, columns = decoded.shape[1:]
        raise checks.InputError(f"the network sees no whole pixel of an image of {rows} x {columns} pixels")
    return SeenImage(decoded, prepared, fit(decoded, *size).float() / 255, view)
