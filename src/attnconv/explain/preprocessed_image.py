"""An image as a network sees it, and where its pixels have gone.

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

    prepared: Tensor  # (C, H, W) float32, normalised: what the network takes
    pixels: Tensor  # (C, H, W) float32, 0 to 1: the same to be drawn
    size: tuple[int, int]  # rows, columns of the image as it was given
    view: View

    def point(self, point: tuple[int, int]) -> tuple[int, int]:
        """Row and column of what the network sees for ``point``, row and column of the image as it was given.

        Raises:
            ValueError: it lies outside the image, or the crop has cut it away.
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
    """``image`` as the validation images of a network's training were made.

    Args:
        image: of Pillow; or (C, H, W) uint8, as `attnconv.data.decode_image` reads it from a file.
        meta: of a checkpoint: channels, image_size, resize_ratio, mean and std.
    Raises:
        ValueError: it cannot be decoded, or has another number of channels.
    """
    decoded = image if isinstance(image, Tensor) else image_pixels(image, meta["channels"])
    prepared = prepare_image(decoded, meta)
    rows, columns = decoded.shape[1:]
    return SeenImage(
        prepared,
        fit(decoded, meta["image_size"], meta["resize_ratio"]).float() / 255,
        (rows, columns),
        view_of((rows, columns), meta["image_size"], meta["resize_ratio"]),
    )


def grid_points(size: tuple[int, int], count: int = 9) -> list[tuple[int, int]]:
    """About ``count`` points, row by row, in the middle of cells that are as square as may be.

    Args:
        size: rows, columns of the image, pixels.
        count: at least 1.
    """
    rows, columns = size
    down = min(max(round((checks.integer("count", count, at_least=1) * rows / columns) ** 0.5), 1), rows)
    across = min(max(round(count / down), 1), columns)
    return [
        ((2 * i + 1) * rows // (2 * down), (2 * j + 1) * columns // (2 * across))
        for i in range(down)
        for j in range(across)
    ]
