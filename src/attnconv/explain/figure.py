"""Attention maps as a picture: the image with the query marked, and a heat map for each layer and head."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from attnconv import checks
from attnconv.explain.attention import AttentionMap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL_INCHES = 1.6  # of the shorter side of a panel
TITLE_INCHES = 0.5  # above each row
GAP_INCHES = 0.08
INACTIVE = 0.8  # the grey, 0 to 1, of layers that do nothing


@dataclass(frozen=True, eq=False)
class Row:
    """One row of a figure: an image with its query, and what that attends to in one layer."""

    image: Tensor  # (C, rows, columns), 0 to 1
    point: tuple[int, int]  # row and column of the query, pixels of ``image``
    found: AttentionMap
    title: str


def attention_figure(image: Tensor, maps: Sequence[AttentionMap], point: tuple[int, int]) -> "Figure":
    """A row for each layer: the image (C, rows, columns, values 0 to 1) with the query, then each head's weights.

    Heads of one row share its colour scale, which its title tells: from 0 to the largest weight; signed weights from
    blue, which lowers, over white, which is 0, to red. A square marks the query's own cell. A layer that does nothing
    for the image is grey: its weights, however small, would fill the scale.
    """
    return rows_figure([Row(image, point, found, row_title(found)) for found in maps])


def row_title(found: AttentionMap, first: str | None = None) -> str:
    """Lines: ``first``, else the layer and its map; and what the colours mean, or that the layer does nothing."""
    if first is None:
        rows, columns = found.weights.shape[1:]
        first = f"{found.layer}\n{rows} x {columns} cells"
    if found.inactive_text:
        said = found.inactive_text.replace(" moves the ", " moves\nthe ")  # of the width of two panels
        return f"{first.replace(chr(10), ', ')}\n{said}"
    _, lowest, largest = colour_scale(found)
    scale = f"weights {lowest:.2g} to {largest:.2g}" if found.weights.any() else "all weights 0"
    gamma = "" if found.gamma is None else f", gamma {found.gamma:.2g}"
    return f"{first}\n{scale}{gamma}"


def rows_figure(rows: Sequence[Row], *, title: str | None = None) -> "Figure":
    """The rows below each other, ``title`` above them."""
    checks.require("matplotlib", extra="train")
    from matplotlib.figure import Figure

    panels = 1 + max(row.found.weights.shape[0] for row in rows)
    aspect = rows[0].image.shape[2] / rows[0].image.shape[1]
    width, height = PANEL_INCHES * min(max(aspect, 1), 2), PANEL_INCHES * min(max(1 / aspect, 1), 2)
    # In inches and without a layout engine, which takes seconds for a hundred panels.
    wide = panels * (width + GAP_INCHES) + GAP_INCHES
    above = TITLE_INCHES * (1 if title is None else 1.7)
    high = len(rows) * (height + TITLE_INCHES) + above - TITLE_INCHES + GAP_INCHES
    figure = Figure(figsize=(wide, high))
    figure.subplots_adjust(
        left=GAP_INCHES / wide,
        right=1 - GAP_INCHES / wide,
        top=1 - above / high,
        bottom=GAP_INCHES / high,
        wspace=GAP_INCHES / width,
        hspace=TITLE_INCHES / height,
    )
    if title is not None:
        figure.suptitle(title, y=1 - GAP_INCHES / high, fontsize=9, parse_math=False)
    grid = figure.subplots(len(rows), panels, squeeze=False)
    for line, row in zip(grid, rows, strict=True):
        # A long name may reach over the next panel.
        draw_attention(line, row.image, row.found, row.point, title=row.title, align="left")
    return figure


def draw_attention(
    panels: Iterable[Any],
    image: Tensor,
    found: AttentionMap,
    point: tuple[int, int],
    *,
    title: str,
    align: Literal["left", "center"] = "center",
) -> None:
    """One row of panels, matplotlib's axes: ``image`` (C, rows, columns, values 0 to 1) with the query, then the heads.

    Panels that are left over stay empty.
    """
    first, *others = panels
    for axes in (first, *others):
        axes.set_axis_off()
    pixels = image.detach().float().cpu().clamp(0, 1).movedim(0, -1).numpy()  # (rows, columns, C)
    first.imshow(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=1)
    first.plot(point[1], point[0], marker="o", markersize=7, color="#e4572e", markeredgecolor="white")
    first.set_title(title, fontsize=7, loc=align, parse_math=False)
    weights = found.weights.detach().float().cpu()  # (heads, rows, columns)
    colours, lowest, largest = colour_scale(found)
    if not found.active:
        weights, colours, lowest, largest = weights.new_full(weights.shape, INACTIVE), "gray", 0.0, 1.0
    for shown, head, axes in zip(weights, found.heads, others, strict=False):
        axes.imshow(shown.numpy(), cmap=colours, vmin=lowest, vmax=largest)
        cell = {"marker": "s", "markersize": 6, "color": "none"}
        row, column = found.query
        axes.plot(column, row, markeredgecolor="black", markeredgewidth=2.5, **cell)
        axes.plot(column, row, markeredgecolor="white", markeredgewidth=1.0, **cell)  # the cell may be dark or bright
        axes.set_title(f"head {head}" if found.active else f"head {head}, inactive", fontsize=7)


def colour_scale(found: AttentionMap) -> tuple[str, float, float]:
    """Matplotlib's colours for the weights, and the weights at their two ends, which all heads share."""
    largest = float(found.weights.abs().max()) or 1.0  # a scale from 0 to 0 is none
    return ("RdBu_r", -largest, largest) if found.signed else ("magma", 0.0, largest)
