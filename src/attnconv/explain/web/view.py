"""What the page shows, as HTML with its pictures inside it: nothing of it is a file that a server has to hand out."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from attnconv import checks
from attnconv.explain.attention import AttentionMap, choose_maps
from attnconv.explain.figure import INACTIVE, colour_scale
from attnconv.explain.web.opened import Looked, Opened
from attnconv.shown import shown_html

LOSSLESS = 128 * 128  # pixels; a larger image goes to the page as JPEG
COARSE = 128  # pixels of the longer side; those of a smaller image are drawn as squares


def query(opened: Opened) -> dict[str, int]:
    """Where the query is, of which image, and of how many rows and columns."""
    (rows, columns), (row, column) = opened.size, opened.point
    return {"image": opened.number, "rows": rows, "columns": columns, "row": row, "column": column}


def picture(opened: Opened) -> dict[str, Any]:
    """What PICTURE shows beside the query."""
    rows, columns = opened.size
    name = shown_html(opened.name)
    return {
        "shape": _shape(opened.shown),
        "image": f'<img alt="{name}" src="{_uri(opened.shown)}">',
        "note": f"{name}, {rows} x {columns} pixels.",
    }


def prediction_html(looked: Looked) -> str:
    """The most likely classes, a bar and a percentage each."""
    if looked.likely is None:
        return '<p class="note">This network names pixels, not the whole image.</p>'
    lines = "".join(
        f'<li><span>{shown_html(name)}</span><b>{100 * chance:.1f}%</b><i style="width: {100 * chance:.1f}%"></i></li>'
        for name, chance in looked.likely
    )
    return f'<ol class="likely">{lines}</ol>'


def attention_html(looked: Looked, point: tuple[int, int], *, layer: str, head: int | None) -> str:
    """The heat maps of a layer's ``head``, of all heads if None; a sentence if the network does not see ``point``."""
    try:
        maps = choose_maps(looked.maps(point), layer=layer, head=head)
    except checks.InputError as error:
        return f'<p class="note" role="status">{shown_html(error)}.</p>'
    at = looked.seen.point(point)
    pixels = (looked.seen.pixels * 255).round().byte()
    return "".join(_layer_html(found, pixels, at) for found in maps)


def _layer_html(found: AttentionMap, pixels: Tensor, at: tuple[int, int]) -> str:
    """What the network sees, ``pixels`` (C, H, W) with the query ``at``, and beside it a heat map for each head."""
    rows, columns = found.weights.shape[1:]
    size = (pixels.shape[1], pixels.shape[2])
    row, column = found.query
    cell = (
        f'<span class="cell" style="left: {100 * column / columns:.2f}%; top: {100 * row / rows:.2f}%; '
        f'width: {100 / columns:.2f}%; height: {100 / rows:.2f}%"></span>'
    )
    weights = found.weights.float().cpu().numpy()
    tiles = "".join(
        f'<figure><div class="map"><img class="cells" alt="Heat map of head {head}" src="{_heat(shown, found)}">{cell}'
        f"</div><figcaption>head {head}{'' if found.active else ', inactive'}</figcaption></figure>"
        for head, shown in zip(found.heads, weights, strict=True)
    )
    return (
        f'<div class="maps" style="--seen: url({_uri(pixels)}); {_shape(pixels)}">'
        f'<figure><div class="map">{_dot(at, size)}</div><figcaption>what it sees</figcaption></figure>{tiles}</div>'
        f"{_legend_html(found)}"
    )


def _legend_html(found: AttentionMap) -> str:
    """The colours with the weights at their ends, and in sentences what they mean."""
    rows, columns = found.weights.shape[1:]
    _, lowest, largest = colour_scale(found)
    scale = ""
    if found.inactive_text:
        text = f"The layer is {found.inactive_text}, so its weights are not drawn."
    elif not found.weights.any():
        text = "All weights are 0."
    else:
        ramp = _heat(np.linspace(lowest, largest, 64)[None], found)
        scale = f'<span>{lowest:.2g}</span><img alt="" src="{ramp}"><span>{largest:.2g}</span>'
        if found.signed:
            text = "Signed weights: red adds, blue subtracts, white is 0. They do not sum to 1."
        else:
            text = "Shares, which sum to 1 for each head; the colours end at the largest of those shown."
    if found.gamma is not None:
        text += f" What is gathered is multiplied by gamma, {found.gamma:.2g}, and added to the layer's input."
    return (
        f'<div class="scale">{scale}</div><p class="note">{text} The layer attends on {rows} x {columns} cells; the '
        "box marks the query's. Point at a map to see the image below it.</p>"
    )


def _dot(point: Sequence[int], size: Sequence[int]) -> str:
    """The query in the middle of its pixel."""
    top, left = (100 * (at + 0.5) / n for at, n in zip(point, size, strict=True))
    return f'<span class="dot" style="left: {left:.2f}%; top: {top:.2f}%"></span>'


def _shape(pixels: Tensor) -> str:
    """For the style sheet: how wide for its height (C, H, W) is, and how its pixels are drawn."""
    rows, columns = pixels.shape[1:]
    return f"--ratio: {columns / rows}; --drawn: {'pixelated' if max(rows, columns) <= COARSE else 'auto'}"


def heat_pixels(weights: np.ndarray, found: AttentionMap) -> np.ndarray:
    """``weights`` (H, W) in the colours of ``found``, grey if that does nothing: (H, W, 3) uint8."""
    if not found.active:
        return np.full((*weights.shape, 3), round(255 * INACTIVE), dtype=np.uint8)
    from matplotlib import colormaps

    name, lowest, largest = colour_scale(found)
    return colormaps[name]((weights - lowest) / (largest - lowest), bytes=True)[..., :3]


def _heat(weights: np.ndarray, found: AttentionMap) -> str:
    return _encoded(heat_pixels(weights, found), "PNG")


def _uri(pixels: Tensor) -> str:
    """(C, H, W) uint8 as an address that holds the image itself."""
    shown = pixels.movedim(0, -1).numpy()  # (H, W, C)
    return _encoded(shown, "PNG" if shown.shape[0] * shown.shape[1] <= LOSSLESS else "JPEG")


def _encoded(pixels: np.ndarray, kind: str) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)).save(file, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def title_html(title: str) -> str:
    """What a network is called."""
    return f'<h3 class="title">{shown_html(title)}</h3>'


def refused_html(message: str) -> str:
    """Why a file was not taken."""
    return f'<p class="refused" role="alert">{shown_html(message)}.</p>'


# The image of `picture` with a `query`, its value, on it: filled in by the browser, in place whenever the query moves.
NO_PICTURE: dict[str, Any] = {"shape": "", "image": "", "note": ""}
PICTURE = """{{#if value}}
<div class="frame" tabindex="0" role="group" aria-label="The image. Arrow keys move the query." style="${shape}">
  ${image}
  <span class="dot" style="left: ${100 * (value.column + 0.5) / value.columns}%;
    top: ${100 * (value.row + 0.5) / value.rows}%"></span>
</div>
<p class="note">${note} Query: row ${value.row}, column ${value.column}.</p>
{{/if}}"""

STYLE = """
#message:not(:has(.refused)) {display: none;}
.title {margin: 0; overflow-wrap: anywhere;}
.frame, .map {position: relative; background: #000;}
.frame {width: min(100%, calc(60vh * var(--ratio))); min-width: 1rem; max-height: 60vh; aspect-ratio: var(--ratio);
  margin: auto; cursor: crosshair;}
.frame:focus-visible {outline: 2px solid var(--color-accent); outline-offset: 2px;}
.frame img, .cells {display: block; width: 100%; height: 100%; image-rendering: var(--drawn);}
.cells {image-rendering: pixelated;}
.dot {position: absolute; width: 14px; height: 14px; margin: -7px; border-radius: 50%; background: #e4572e;
  border: 2px solid #fff; box-shadow: 0 0 0 1px #000; pointer-events: none;}
.maps {display: grid; gap: .6rem;
  grid-template-columns: repeat(auto-fit, minmax(min(7rem * clamp(1, .7 * var(--ratio), 2), 45%), 1fr));}
.maps figure {margin: 0;}
.map {aspect-ratio: var(--ratio); background: var(--seen) 0 0 / 100% 100%; image-rendering: var(--drawn);
  overflow: hidden;}
.map:hover .cells {opacity: .45;}
.cell {position: absolute; min-width: 6px; min-height: 6px; border: 2px solid #fff; outline: 1px solid #000;
  box-shadow: inset 0 0 0 1px #000;}
figcaption, .note, .scale span {font-size: .85rem; color: var(--body-text-color); opacity: .8;}
.note {margin: .4rem 0 0; overflow-wrap: anywhere;}
.scale {display: flex; align-items: center; gap: .5rem; margin-top: .6rem;}
.scale img {flex: 0 1 16rem; width: 0; min-width: 0; height: .7rem;}
.likely {list-style: none; margin: 0; padding: 0;}
.likely li {display: grid; grid-template-columns: 1fr auto; margin: 0 0 .3rem; overflow-wrap: anywhere;}
.likely b {font-variant-numeric: tabular-nums;}
.likely i {grid-column: 1 / -1; height: 4px; border-radius: 2px; background: var(--color-accent);}
.refused {margin: 0; padding: .6rem .8rem; border-left: 4px solid #c0392b; background: var(--error-background-fill);
  color: var(--body-text-color); overflow-wrap: anywhere;}
"""
