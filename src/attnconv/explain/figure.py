"""Attention over a photo: the query, the mean of a layer's heads, Grad-CAM if it was asked for, then each head.

`panels` makes the pictures; the figure, the page and notebooks show the same ones in the same order.

Letters: C channels, H rows, W columns.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from torch.nn.functional import interpolate

from attnconv import checks
from attnconv.explain.attention import AttentionMap, drawable
from attnconv.explain.preprocessed_image import SeenImage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST, SHORTEST = 1024, 480  # pixels of the longer side of a picture: most and, of an enlarged image, least
COARSE = 128  # pixels of the longer side: a smaller image is enlarged in squares
INACTIVE = 204  # the grey, 0 to 255, over the map of an inactive layer
OUTSIDE = 0.4  # brightness of what the network does not see
QUERY = "#e4572e"

PANEL, TITLE, HEADING, GAP = 2.4, 0.18, 0.24, 0.08  # inches: shorter side of a large panel, heights of text, space
SCALE = 0.13  # inches: height of the line about the heads' colours
DPI = 120  # pixels an inch of a figure of several rows, and least of one row


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture of an arrangement."""

    title: str
    pixels: np.ndarray  # (H, W, 3) uint8
    is_head: bool = False  # drawn small, behind the others


@dataclass(frozen=True, eq=False)
class Row:
    """One row of a figure: an image with its query, and its attention in one layer."""

    image: SeenImage | Tensor  # as `attention_figure`
    point: tuple[int, int]
    found: AttentionMap
    title: str
    cam: Tensor | None = None  # of `grad_cam`
    photo_point: tuple[int, int] | None = None  # as `attention_figure`


def attention_figure(
    image: SeenImage | Tensor,
    maps: Sequence[AttentionMap],
    point: tuple[int, int],
    *,
    title: str | None = None,
    cams: Mapping[str, Tensor] | None = None,
    photo_point: tuple[int, int] | None = None,
) -> "Figure":
    """Draw a row for each layer: the image with the query, the mean of the heads over it, and each head, smaller.

    The colours begin at the weight of uniform attention: a weight at or below it leaves the photo as it is. Those of
    the mean end at its largest weight, those of the heads at the largest of all heads. Signed weights go from blue,
    which subtracts, to red, which adds. A box marks the cell of the query. An inactive layer is grey, since
    its weights, however small, would fill the scale; a layer of fewer than 4 x 4 cells is left out. If the network sees
    less than half of a photo, only that part is drawn.

    Args:
        image: of `see_image`, drawn with the pixels of its file, up to 1,024, if there is one map; or (C, rows,
            columns) of values 0 to 1.
        maps: of `attention_maps`.
        point: row and column of the query in what the network sees.
        title: above all rows.
        cams: of `grad_cam`, by layer, drawn beside the mean of the heads.
        photo_point: row and column of the query in the photo, where the dot is drawn; the middle of ``point`` if not
            given.
    Raises:
        ValueError: no map has as many as 4 x 4 cells; or matplotlib is not installed.
    """
    cams = cams or {}
    rows = [Row(image, point, found, row_title(found), cams.get(found.layer), photo_point) for found in drawable(maps)]
    return rows_figure(rows, title=title)


def row_title(found: AttentionMap) -> str:
    """Return the layer, its cells, and the weight that each would have if attention were uniform."""
    rows, columns = found.weights.shape[1:]
    uniform = "" if found.signed else f"; uniform attention is {1 / (rows * columns):.2g} a cell"
    return f"{found.layer}: {rows} x {columns} cells{uniform}"


def heads_title(found: AttentionMap) -> str:
    """Return the number of heads and the range of the colours that they share; "" for one head."""
    if len(found.weights) == 1:
        return ""
    shared = " share one scale" if found.active and found.weights.any() else ""
    return f"{len(found.weights)} heads{shared}: {_range(found, found.weights)}"


def rows_figure(rows: Sequence[Row], *, title: str | None = None) -> "Figure":
    """Draw the rows below each other, with ``title`` above them; the large panels of a single row keep their pixels."""
    checks.require("matplotlib", extra="train")
    from matplotlib.figure import Figure

    drawn = [panels(row.image, row.found, row.point, cam=row.cam, photo_point=row.photo_point) for row in rows]
    # Placed in inches: a layout engine takes seconds for a hundred panels.
    shape = drawn[0][0].pixels.shape
    aspect = min(max(shape[1] / shape[0], 0.5), 2)
    width, height = PANEL * max(aspect, 1), PANEL * max(1 / aspect, 1)
    low = (height - TITLE - GAP) / 2  # heads stand in two lines
    small = low * width / height
    large = max(sum(not panel.is_head for panel in line) for line in drawn)
    pairs = max((sum(panel.is_head for panel in line) + 1) // 2 for line in drawn)
    wide = GAP + large * (width + GAP) + pairs * (small + GAP)
    above = 0 if title is None else HEADING * (2 + title.count("\n")) / 1.5
    heading = HEADING + (SCALE if pairs else 0)
    each = heading + TITLE + height + GAP
    high = above + len(rows) * each + GAP
    whole = max(shape[1] / width, shape[0] / height)  # at which large panels keep their pixels
    figure = Figure(figsize=(wide, high), dpi=max(whole, DPI) if len(rows) == 1 else DPI)

    def place(panel: Panel, left: float, top: float, size: tuple[float, float]) -> None:
        axes = figure.add_axes((left / wide, 1 - (top + size[1]) / high, size[0] / wide, size[1] / high))
        axes.imshow(panel.pixels, interpolation="antialiased")
        axes.set_axis_off()
        axes.set_title(panel.title, fontsize=7, pad=2, parse_math=False)

    if title is not None:
        figure.text(0.5, 1 - GAP / high, title, ha="center", va="top", fontsize=10, parse_math=False)
    for i, (row, line) in enumerate(zip(rows, drawn, strict=True)):
        top = above + i * each
        y = 1 - (top + GAP) / high
        figure.text(GAP / wide, y, row.title, va="top", fontsize=8, weight="bold", parse_math=False)
        y = 1 - (top + heading) / high
        figure.text(1 - GAP / wide, y, heads_title(row.found), ha="right", va="bottom", fontsize=7, parse_math=False)
        top += heading + TITLE
        for j, panel in enumerate(panel for panel in line if not panel.is_head):
            place(panel, GAP + j * (width + GAP), top, (width, height))
        heads = [panel for panel in line if panel.is_head]
        for j, panel in enumerate(heads):
            below, across = divmod(j, (len(heads) + 1) // 2)
            left = GAP + large * (width + GAP) + across * (small + GAP)
            place(panel, left, top + below * (low + TITLE + GAP), (small, low))
    return figure


def panels(
    image: SeenImage | Tensor,
    found: AttentionMap,
    point: tuple[int, int],
    *,
    cam: Tensor | None = None,
    photo_point: tuple[int, int] | None = None,
) -> list[Panel]:
    """Return the pictures of one layer: the query, the mean of the heads, Grad-CAM, and each of several heads.

    The heads share the colours of `heads_title`; the titles of the others give the range of theirs.

    Args:
        image: as `attention_figure`.
        found: the layer's map.
        point: as `attention_figure`.
        cam: of `grad_cam`.
        photo_point: as `attention_figure`.
    """
    photo, times = photo_of(image)
    box = _box(image, times)
    weights = found.weights.detach().float().cpu()
    several, mean = len(weights) > 1, weights.mean(0)
    name = f"mean of {len(weights)} heads" if several else f"head {found.heads[0]}" if found.chosen else "attention"
    shown = [
        Panel("query", _dotted(_framed(photo, box), _dot(image, point, photo_point, times))),
        Panel(f"{name}: {_range(found, mean)}", _over(photo, box, mean, _scale(found, mean), found.query)),
    ]
    if cam is not None:
        shown.append(Panel("Grad-CAM of the prediction: 0 to 1", _over(photo, box, cam, ("inferno", 0.0, 1.0))))
    if several:
        scale = _scale(found, weights)
        for number, head in zip(found.heads, weights, strict=True):
            shown.append(Panel(f"head {number}", _over(photo, box, head, scale, found.query), is_head=True))
    return shown


def data_uri(pixels: np.ndarray) -> str:
    """Return (H, W, 3) uint8 as an address that contains the picture, for a page."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


Scale = tuple[str, float, float]  # matplotlib's name of the colours, and the weights at their two ends


def _scale(found: AttentionMap, weights: Tensor) -> Scale | None:
    """Return the colours for ``weights`` of a map; None if its layer is inactive."""
    if not found.active:
        return None
    largest = float(weights.abs().max())
    if found.signed:
        return "RdBu_r", -largest, largest
    return "inferno", min(1 / found.weights[0].numel(), largest), largest


def _range(found: AttentionMap, weights: Tensor) -> str:
    if (scale := _scale(found, weights)) is None:
        return "inactive"
    if not weights.any():
        return "all weights 0"
    _, lowest, largest = scale
    gamma = "" if found.gamma is None else f", gamma {found.gamma:.2g}"
    return f"{lowest:.2g} to {largest:.2g}{gamma}"


Box = tuple[int, int, int, int]  # first row, row after the last, first column, column after the last


def photo_of(image: SeenImage | Tensor) -> tuple[np.ndarray, float]:
    """Return what is drawn of an image, (H, W, 3) uint8, and how many times as large as given it is."""
    if isinstance(image, SeenImage):
        (top, bottom), (left, right) = image.drawn
        pixels = image.photo[:, top : bottom + 1, left : right + 1]
    else:
        pixels = (image.detach().float().cpu().clamp(0, 1) * 255).round().byte()
    longest = max(pixels.shape[1:])
    scale = min(LONGEST, max(SHORTEST, longest)) / longest
    if scale != 1:
        size = [max(round(n * scale), 1) for n in pixels.shape[1:]]
        how: dict[str, Any] = {"mode": "nearest"} if longest <= COARSE else {"mode": "bilinear", "antialias": True}
        pixels = interpolate(pixels[None].float(), size, **how)[0].round().byte()
    return pixels.expand(3, -1, -1).movedim(0, -1).contiguous().numpy(), scale


def framed_photo(image: SeenImage) -> np.ndarray:
    """Return what is drawn of an image, (H, W, 3) uint8, with a frame around the part that the network sees."""
    photo, scale = photo_of(image)
    return _framed(photo, _box(image, scale))


def _box(image: SeenImage | Tensor, scale: float) -> Box:
    """Return the box that the network sees, in pixels of the drawn image."""
    if isinstance(image, SeenImage):
        edges = zip(image.view.box(), image.drawn, strict=True)
        seen = [(first - start, last + 1 - start) for (first, last), (start, _) in edges]
    else:
        seen = [(0, n) for n in image.shape[1:]]
    top, bottom, left, right = (round(edge * scale) for ends in seen for edge in ends)
    return top, bottom, left, right


def _dot(
    image: SeenImage | Tensor, point: tuple[int, int], photo_point: tuple[int, int] | None, scale: float
) -> tuple[float, float]:
    """Return row and column of the query in pixels of the drawn image; arguments as `attention_figure`."""
    row, column = photo_point or point
    if isinstance(image, SeenImage):
        row, column = photo_point or image.view.unseen(point)
        row, column = row - image.drawn[0][0], column - image.drawn[1][0]
    return (row + 0.5) * scale, (column + 0.5) * scale


def _over(
    photo: np.ndarray, box: Box, weights: Tensor, scale: Scale | None, query: tuple[int, int] | None = None
) -> np.ndarray:
    """Return ``photo`` with ``weights`` (rows, columns) over the box, grey without a scale, and a frame around a cell.

    The weakest colour, 0 of signed weights and the lower end of others, is transparent.
    """
    from matplotlib import colormaps
    from PIL import Image, ImageDraw

    top, bottom, left, right = box
    drawn = photo * OUTSIDE
    if scale is not None:
        name, lowest, largest = scale
        weakest = max(lowest, 0.0)
        heat = interpolate(weights[None, None], (bottom - top, right - left), mode="bilinear")[0, 0].numpy()
        heat = heat.clip(lowest, largest)
        share = 0.7 * np.abs(heat - weakest)[..., None] / ((largest - weakest) or 1.0)  # 0 if all are the weakest
        seen = photo[top:bottom, left:right]
        grey = seen.mean(-1, keepdims=True)
        colours = colormaps[name]((heat - lowest) / ((largest - lowest) or 1.0))[..., :3] * 255
        drawn[top:bottom, left:right] = grey * (1 - share) + colours * share
    else:
        drawn[top:bottom, left:right] = INACTIVE
    picture = Image.fromarray(drawn.round().astype(np.uint8))
    if query is not None:
        (row, column), (rows, columns) = query, weights.shape
        high, wide = (bottom - top) / rows, (right - left) / columns
        corner = left + column * wide, top + row * high
        _rectangle(ImageDraw.Draw(picture), (*corner, corner[0] + wide, corner[1] + high))
    return np.asarray(picture)


def _framed(photo: np.ndarray, box: Box) -> np.ndarray:
    """Return ``photo`` with a frame around the box, and darker outside, if the box is not all of it."""
    from PIL import Image, ImageDraw

    top, bottom, left, right = box
    if (bottom - top, right - left) == photo.shape[:2]:
        return photo
    drawn = (photo * OUTSIDE).round().astype(np.uint8)
    drawn[top:bottom, left:right] = photo[top:bottom, left:right]
    picture = Image.fromarray(drawn)
    _rectangle(ImageDraw.Draw(picture), (left, top, right, bottom))
    return np.asarray(picture)


def _dotted(photo: np.ndarray, dot: tuple[float, float]) -> np.ndarray:
    """Return ``photo`` with a dot on the query."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(photo)
    draw = ImageDraw.Draw(picture)
    radius = max(photo.shape) / 80
    for size, colour in ((radius + 4, "black"), (radius + 3, "white"), (radius, QUERY)):
        draw.circle((dot[1], dot[0]), size, fill=colour)
    return np.asarray(picture)


def _rectangle(draw: Any, corners: tuple[float, float, float, float]) -> None:
    """Draw a white frame with a black edge, visible on bright and on dark ground."""
    draw.rectangle(corners, outline="black", width=5)
    draw.rectangle([corners[0] + 1, corners[1] + 1, corners[2] - 1, corners[3] - 1], outline="white", width=3)
