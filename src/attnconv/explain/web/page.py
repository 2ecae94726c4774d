"""The page itself, of Gradio's parts: where one drops an image, clicks on it, and chooses layer and head.

All that a tab knows is in its gr.State and in what is chosen on it, so that tabs do not see each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnconv import checks
from attnconv.data.decode import read_bytes
from attnconv.explain.web import view
from attnconv.explain.web.opened import Looked, Opened, WebImage, WebNetwork, open_image

if TYPE_CHECKING:
    import gradio as gr

TITLE = "What attention looks at"
TABS = 100  # whose images, queries and keys are kept at a time
HINT = "Drop an image, then click on it, or use the arrow keys: the heat maps show what that point attends to."
# One event at a time, in the order in which they came: none draws or keeps what another one has replaced meanwhile, and
# no network, which tells of its attention as it runs, has two images in it.
IN_TURN: Any = {"concurrency_id": "in turn", "concurrency_limit": 1}
OPENS: Any = {"show_progress": "minimal", **IN_TURN}
# Every click is answered, in turn.
REDRAWS: Any = {"show_progress": "hidden", "trigger_mode": "multiple", **IN_TURN}
GONE = "the image of this tab is no longer kept: drop it once more"
ALL = "all"  # heads
# A click, or an arrow key, on the picture: the query moves at once, then the server is told.
MOVE = """
const move = (row, column) => {
  const frame = element.querySelector('.frame'), {rows, columns} = frame.dataset;
  const inside = (at, n) => Math.min(Math.max(Math.floor(at), 0), n - 1);
  row = inside(row, rows); column = inside(column, columns);
  Object.assign(frame.dataset, {row, column});
  element.querySelector('.row').textContent = row;
  element.querySelector('.column').textContent = column;
  Object.assign(frame.querySelector('.dot').style,
    {left: `${100 * (column + 0.5) / columns}%`, top: `${100 * (row + 0.5) / rows}%`});
  trigger('select', {row, column});
};
element.addEventListener('click', (event) => {
  const frame = event.target.closest('.frame');
  if (!frame) return;
  const box = frame.getBoundingClientRect(), {rows, columns} = frame.dataset;
  move((event.clientY - box.top) / box.height * rows, (event.clientX - box.left) / box.width * columns);
});
element.addEventListener('keydown', (event) => {
  const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
  if (!step || !event.target.closest('.frame')) return;
  event.preventDefault();
  const {rows, columns, row, column} = event.target.dataset, far = Math.max(1, Math.min(rows, columns) / 16);
  move(+row + step[0] * far, +column + step[1] * far);
});
"""


@dataclass(frozen=True, eq=False)
class Panel:
    """What the page shows of one network: parts of Gradio."""

    network: WebNetwork
    prediction: Any
    layer: Any
    head: Any
    maps: Any

    def heat_maps(self, look: Looked, point: tuple[int, int], layer: str, head: str) -> str:
        return view.attention_html(look, point, layer=layer, head=None if head == ALL else int(head))


def web_page(
    networks: Sequence[WebNetwork], images: Sequence[WebImage] = (), *, first: WebImage | None = None
) -> "gr.Blocks":
    """The page for one network, or for several beside each other.

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
                picture = gr.HTML(js_on_load=MOVE, elem_id="picture")
            panels = [_panel(network, number) for number, network in enumerate(networks, start=1)]

        chosen = [part for panel in panels for part in (panel.layer, panel.head)]
        maps = [panel.maps for panel in panels]

        def draw(opened: Opened, *choices: str) -> list[str]:
            """The heat maps of each panel, for layer, head, layer, head, ..."""
            each = zip(panels, opened.looks, choices[::2], choices[1::2], strict=True)
            return [panel.heat_maps(look, opened.point, layer, head) for panel, look, layer, head in each]

        def show(image: WebImage, *choices: str) -> list[Any]:
            try:
                opened = open_image(image, networks)
            except checks.InputError as error:
                return [None, view.refused_html(str(error)), *[gr.skip()] * (2 + 2 * len(panels))]
            predictions = [view.prediction_html(look) for look in opened.looks]
            return [None, "", opened, view.picture_html(opened), *predictions, *draw(opened, *choices)]

        def take(path: str, *choices: str) -> list[Any]:
            try:
                return show(WebImage(Path(path).name, read_bytes(path)), *choices)
            finally:
                Path(path).unlink(missing_ok=True)

        def move(event: gr.EventData, opened: Opened | None, *choices: str) -> list[Any]:
            if opened is None:
                return [view.refused_html(GONE), None, *[gr.skip()] * len(panels)]
            opened = opened.at((int(event.row), int(event.column)))
            return ["", opened, *draw(opened, *choices)]

        shown = [file, message, kept, picture, *(panel.prediction for panel in panels), *maps]
        file.upload(take, [file, *chosen], shown, **OPENS)
        for button, image in zip(buttons, images, strict=True):
            button.click(partial(show, image), chosen, shown, **OPENS)
        if first is not None:
            page.load(partial(show, first), chosen, shown, **OPENS)
        picture.select(move, [kept, *chosen], [message, kept, *maps], **REDRAWS)
        for number, panel in enumerate(panels):
            _redraw_as_chosen(panel, number, kept)
    return page


def _panel(network: WebNetwork, number: int) -> Panel:
    import gradio as gr

    layers = list(network.layers)
    with gr.Column(min_width=320, elem_id=f"network-{number}"):
        gr.HTML(view.title_html(network.title))
        return Panel(
            network,
            prediction=gr.HTML(elem_id=f"prediction-{number}"),
            layer=gr.Dropdown(layers, value=layers[-1], label="Attention layer", interactive=True),
            head=gr.Radio(_heads(network, layers[-1]), value=ALL, label="Head", interactive=True),
            maps=gr.HTML(elem_id=f"attention-{number}"),
        )


def _redraw_as_chosen(panel: Panel, number: int, kept: Any) -> None:
    """Another layer or head of one network draws its heat maps anew."""
    import gradio as gr

    def draw(opened: Opened | None, layer: str, head: str) -> str:
        return "" if opened is None else panel.heat_maps(opened.looks[number], opened.point, layer, head)

    def change_layer(opened: Opened | None, layer: str, head: str) -> list[Any]:
        heads = _heads(panel.network, layer)
        head = head if head in heads else ALL
        return [gr.Radio(heads, value=head), draw(opened, layer, head)]

    panel.layer.input(change_layer, [kept, panel.layer, panel.head], [panel.head, panel.maps], **REDRAWS)
    panel.head.input(draw, [kept, panel.layer, panel.head], panel.maps, **REDRAWS)


def _heads(network: WebNetwork, layer: str) -> list[str]:
    """What can be chosen: all heads of the layer, or each of several."""
    count = network.layers[layer]
    return [ALL, *(str(number) for number in range(1, count + 1) if count > 1)]
