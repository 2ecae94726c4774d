"""The page on which one drops an image, clicks on it and chooses layer and head: parts of Gradio, and HTML in them.

All that a tab knows is in its gr.State and in what is chosen on it, so that tabs do not see each other. Whatever is
chosen, the heat maps are drawn by one function of all of it. Pictures are inside the HTML: none is a file that a server
has to hand out.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from attnconv import checks
from attnconv.data.decode import read_bytes
from attnconv.explain.attention import AttentionMap, choose_maps, without_map_text
from attnconv.explain.figure import INACTIVE, colour_scale
from attnconv.explain.web_session import Look, Opened, WebImage, WebNetwork, open_image
from attnconv.shown import shown_html

if TYPE_CHECKING:
    import gradio as gr

TITLE = "What attention looks at"
TABS = 100  # whose images, queries and keys are kept at a time
HINT = "Drop an image, then click on it, or use the arrow keys: the heat maps show what that point attends to."
# Events are answered as plain requests. Gradio's queue answers on a stream which it closes whenever nothing waits: what
# is asked while it closes is never heard of again.
DIRECT: Any = {"queue": False}
OPENS: Any = {"show_progress": "minimal", **DIRECT}
# One drawing at a time, and a last one of all that was moved or chosen meanwhile: what is shown is what was chosen.
REDRAWS: Any = {"show_progress": "hidden", "trigger_mode": "always_last", **DIRECT}
GONE = "the image of this tab is no longer kept: drop it once more"
ALL = "all"  # heads
LOSSLESS = 128 * 128  # pixels; a larger image goes to the page as JPEG
COARSE = 128  # pixels of the longer side; those of a smaller image are drawn as squares
# The image of `picture_of` with `query_of`, its value, on it: filled in by the browser, in place when the query moves.
PICTURE, MOVE = (Path(__file__).with_name(name) for name in ("web_page.html", "web_page.js"))
NO_PICTURE: dict[str, Any] = {"shape": "", "image": "", "note": ""}


@dataclass(frozen=True, eq=False)
class Panel:
    """The Gradio components that show one network."""

    network: WebNetwork
    prediction: Any
    layer: Any
    head: Any
    maps: Any

    def heat_maps(self, look: Look, point: tuple[int, int], layer: str, head: str) -> str:
        """Return HTML; a ``head`` that the layer does not have, being of the one before it, is all of them."""
        number = int(head) if head in _heads(self.network, layer) and head != ALL else None
        return attention_html(look, point, layer=layer, head=number)


def web_page(
    networks: Sequence[WebNetwork], images: Sequence[WebImage] = (), *, first: WebImage | None = None
) -> "gr.Blocks":
    """Return the page for one network, or for several beside each other.

    Args:
        networks: at least one.
        images: offered on the page, a button each.
        first: what a tab begins with; nothing if None.
    Raises:
        ValueError: Gradio is not installed.
    """
    checks.require("gradio", extra="demo")
    import gradio as gr

    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, 600)) as page:
        page.state_session_capacity = TABS
        kept = gr.State()  # Opened, or None
        gr.Markdown(f"# {TITLE}\n{HINT}")
        with gr.Row():
            with gr.Column(min_width=320):
                file = gr.File(label="An image file", height=130, elem_id="drop")
                with gr.Row():
                    buttons = [gr.Button(image.name, size="sm") for image in images]
                message = gr.HTML(elem_id="message")
                # Its value is where the query is.
                picture = gr.HTML(
                    html_template=PICTURE.read_text(), js_on_load=MOVE.read_text(), elem_id="picture", **NO_PICTURE
                )
            panels = [_panel(network, number) for number, network in enumerate(networks, start=1)]

        def refuse(error: checks.InputError) -> list[Any]:
            return [None, refused_html(str(error)), *[gr.skip()] * (2 + len(panels))]

        def show(image: WebImage) -> list[Any]:
            try:
                opened = open_image(image, networks)
            except checks.InputError as error:
                return refuse(error)
            shown = gr.HTML(query_of(opened), **picture_of(opened))
            return [None, "", opened, shown, *(prediction_html(look) for look in opened.looks)]

        def take(path: str) -> list[Any]:
            name = Path(path).name
            try:
                content = read_bytes(path)
            except checks.InputError:  # another tab, to which the same file was dropped, has read and deleted it
                return refuse(checks.InputError(f"{name} is no longer there: drop it once more"))
            finally:
                Path(path).unlink(missing_ok=True)
            return show(WebImage(name, content))

        def draw(opened: Opened | None, query: dict[str, int] | None, *choices: str) -> list[Any]:
            """Return the message, and the heat maps of each panel, for layer, head, layer, head, ..."""
            if query is None:
                return [gr.skip()] * (1 + len(panels))
            if opened is None or opened.number != query["image"]:
                return [refused_html(GONE), *[""] * len(panels)]
            each = zip(panels, opened.looks, choices[::2], choices[1::2], strict=True)
            point = query["row"], query["column"]
            return ["", *(panel.heat_maps(look, point, layer, head) for panel, look, layer, head in each)]

        shown = [file, message, kept, picture, *(panel.prediction for panel in panels)]
        file.upload(take, file, shown, **OPENS)
        for button, image in zip(buttons, images, strict=True):
            button.click(partial(show, image), None, shown, **OPENS)
        if first is not None:
            page.load(partial(show, first), None, shown, **OPENS)
        for panel in panels:
            panel.layer.change(partial(_choose_head, panel.network), [panel.layer, panel.head], panel.head, **REDRAWS)
        chosen = [part for panel in panels for part in (panel.layer, panel.head)]
        changes = [part.change for part in (picture, *chosen)]
        gr.on(changes, draw, [kept, picture, *chosen], [message, *(panel.maps for panel in panels)], **REDRAWS)
    return page


def _panel(network: WebNetwork, number: int) -> Panel:
    import gradio as gr

    layers = list(network.layers)
    with gr.Column(min_width=320, elem_id=f"network-{number}"):
        gr.HTML(title_html(network.title))
        return Panel(
            network,
            prediction=gr.HTML(elem_id=f"prediction-{number}"),
            layer=gr.Dropdown(layers, value=layers[-1], label="Attention layer", interactive=True),
            head=gr.Radio(_heads(network, layers[-1]), value=ALL, label="Head", interactive=True),
            maps=gr.HTML(elem_id=f"attention-{number}"),
        )


def _choose_head(network: WebNetwork, layer: str, head: str) -> Any:
    """Return the heads of another layer, of which ``head`` stays chosen if it is one of them."""
    import gradio as gr

    heads = _heads(network, layer)
    return gr.Radio(heads, value=head if head in heads else ALL)


def _heads(network: WebNetwork, layer: str) -> list[str]:
    """Return what can be chosen: all heads of the layer, or each of several."""
    count = network.layers[layer]
    return [ALL, *(str(number) for number in range(1, count + 1) if count > 1)]


def query_of(opened: Opened) -> dict[str, int]:
    """Return where the query is, of which image, and of how many rows and columns."""
    (rows, columns), (row, column) = opened.size, opened.point
    return {"image": opened.number, "rows": rows, "columns": columns, "row": row, "column": column}


def picture_of(opened: Opened) -> dict[str, Any]:
    """Return what PICTURE shows beside the query."""
    rows, columns = opened.size
    name = shown_html(opened.name)
    return {
        "shape": _shape(opened.shown),
        "image": f'<img alt="{name}" src="{_uri(opened.shown)}">',
        "note": f"{name}, {rows} x {columns} pixels.",
    }


def prediction_html(looked: Look) -> str:
    """Return the most likely classes, a bar and a percentage each."""
    if looked.likely is None:
        return '<p class="note">This network names pixels, not the whole image.</p>'
    lines = "".join(
        f'<li><span>{shown_html(name)}</span><b>{100 * chance:.1f}%</b><i style="width: {100 * chance:.1f}%"></i></li>'
        for name, chance in looked.likely
    )
    return f'<ol class="likely">{lines}</ol>'


def attention_html(looked: Look, point: tuple[int, int], *, layer: str, head: int | None) -> str:
    """Return heat maps of a layer's ``head``, all heads if None; a sentence if the network does not see ``point``."""
    try:
        maps = choose_maps(looked.maps(point), layer=layer, head=head)
    except checks.InputError as error:
        return f'<p class="note" role="status">{shown_html(error)}.</p>'
    at = looked.seen.point(point)
    pixels = (looked.seen.pixels * 255).round().byte()
    without = looked.attention.without_map
    note = f'<p class="note">{shown_html(without_map_text(without))}.</p>' if without else ""
    return "".join(_layer_html(found, pixels, at) for found in maps) + note


def _layer_html(found: AttentionMap, pixels: Tensor, at: tuple[int, int]) -> str:
    """Return what the network sees, ``pixels`` (C, H, W) with the query ``at``, and a heat map for each head."""
    rows, columns = found.weights.shape[1:]
    top, left = (100 * (at + 0.5) / n for at, n in zip(at, pixels.shape[1:], strict=True))
    row, column = found.query
    dot = f'<span class="dot" style="left: {left:.2f}%; top: {top:.2f}%"></span>'
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
        f'<figure><div class="map">{dot}</div><figcaption>what it sees</figcaption></figure>{tiles}</div>'
        f"{_legend_html(found)}"
    )


def _legend_html(found: AttentionMap) -> str:
    """Return the colours with the weights at their ends, and in sentences what they mean."""
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


def _shape(pixels: Tensor) -> str:
    """Return, for the style sheet, how wide for its height (C, H, W) is, and how its pixels are drawn."""
    rows, columns = pixels.shape[1:]
    return f"--ratio: {columns / rows}; --drawn: {'pixelated' if max(rows, columns) <= COARSE else 'auto'}"


def heat_pixels(weights: np.ndarray, found: AttentionMap) -> np.ndarray:
    """Return ``weights`` (H, W) in the colours of ``found``, grey if that does nothing: (H, W, 3) uint8."""
    if not found.active:
        return np.full((*weights.shape, 3), round(255 * INACTIVE), dtype=np.uint8)
    from matplotlib import colormaps

    name, lowest, largest = colour_scale(found)
    return colormaps[name]((weights - lowest) / (largest - lowest), bytes=True)[..., :3]


def _heat(weights: np.ndarray, found: AttentionMap) -> str:
    return _encoded(heat_pixels(weights, found), "PNG")


def _uri(pixels: Tensor) -> str:
    """Return (C, H, W) uint8 as an address that holds the image itself."""
    shown = pixels.movedim(0, -1).numpy()  # (H, W, C)
    return _encoded(shown, "PNG" if shown.shape[0] * shown.shape[1] <= LOSSLESS else "JPEG")


def _encoded(pixels: np.ndarray, kind: str) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)).save(file, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def title_html(title: str) -> str:
    """Return a network's name as a heading."""
    return f'<h3 class="title">{shown_html(title)}</h3>'


def refused_html(message: str) -> str:
    """Return the reason why a file was not taken."""
    return f'<p class="refused" role="alert">{shown_html(message)}.</p>'
