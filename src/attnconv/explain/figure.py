"""Attention maps as a picture: the image with the query marked, and a heat map for each layer and head."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from attnconv import checks
from attnconv.explain.attention import AttentionMap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL_INCHES = 1.6


def attention_figure(image: Tensor, maps: Sequence[AttentionMap], point: tuple[int, int]) -> "Figure":
    """A row for each layer: the image (C, rows, columns, values 0 to 1) with the query, then each head's weights.

    Heads of one layer share a colour scale from 0 to the layer's largest weight; a square marks the query's own cell.
    """
    checks.require("matplotlib", extra="train")
    from matplotlib.figure import Figure

    heads = max(m.weights.shape[0] for m in maps)
    figure = Figure(figsize=(CELL_INCHES * (heads + 1), (CELL_INCHES + 0.3) * len(maps)), layout="constrained")
    grid = figure.subplots(len(maps), heads + 1, squeeze=False)
    for row, found in zip(grid, maps, strict=True):
        rows, columns = found.weights.shape[1:]
        draw_attention(row, image, found, point, title=f"{found.layer}\n{rows} x {columns} cells")
    return figure


def draw_attention(
    panels: Iterable[Any], image: Tensor, found: AttentionMap, point: tuple[int, int], *, title: str
) -> None:
    """One row of panels, matplotlib's axes: ``image`` (C, rows, columns, values 0 to 1) with the query, then the heads.

    Panels that are left over stay empty.
    """
    first, *others = panels
    for axes in (first, *others):
        axes.set_axis_off()
    pixels = image.detach().float().cpu().clamp(0, 1).movedim(0, -1).numpy()  # (rows, columns, C)
    first.imshow(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels, cmap="gray")
    first.plot(point[1], point[0], marker="o", markersize=7, color="#e4572e", markeredgecolor="white")
    first.set_title(title, fontsize=7)
    weights = found.weights.detach().float().cpu().numpy()  # (heads, rows, columns)
    for head, axes in zip(range(len(weights)), others, strict=False):
        axes.imshow(weights[head], cmap="magma", vmin=0, vmax=np.max(weights))
        axes.plot(found.query[1], found.query[0], marker="s", markersize=6, color="none", markeredgecolor="white")
        axes.set_title(f"head {head + 1}", fontsize=7)
