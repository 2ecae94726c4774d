"""The page itself, of Gradio's parts: where one drops an image, clicks on it, and chooses layer and head.

All that a tab knows is in its gr.State and in what is chosen on it, so that tabs do not see each other. Whatever is
chosen, the heat maps are drawn by one function of all of it.
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
# Events are answered as plain requests. Gradio's queue answers on a stream which it closes whenever nothing waits: what
# is asked while it closes is never heard of again.
DIRECT: Any = {"queue": False}
OPENS: Any = {"show_progress": "minimal", **DIRECT}
# One drawing at a time, and a last one of all that was moved or chosen meanwhile: what is shown is what was chosen.
REDRAWS: Any = {"show_progress": "hidden", "trigger_mode": "always_last", **DIRECT}
GONE = "the image of this tab is no longer kept: drop it once more"
ALL = "all"  # heads
# A click, or an arrow key, on the picture moves the query.
MOVE = """
const move = (row, column) => {
  const {rows, columns} = props.value, inside = (at, n) => Math.min(Math.max(Math.floor(at), 0), n - 1);
  props.value = {...props.value, row: inside(row, rows), column: inside(column, columns)};
};
element.addEventListener('click', (event) => {
  const frame = event.target.closest('.frame');
  if (!frame) return;
  const box = frame.getBoundingClientRect(), {rows, columns} = props.value;
  move((event.clientY - box.top) / box.height * rows, (event.clientX - box.left) / box.width * columns);
});
element.addEventListener('keydown', (event) => {
  const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
  if (!step || !event.target.closest('.frame')) return;
  event.preventDefault();
  const {rows, columns, row, column} = props.value, far = Math.max(1, Math.min(rows, columns) / 16);
  move(row + step[0] * far, column + step[1] * far);
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
        """HTML; a ``head`` that the layer does not have, being of the one before it, is all of them."""
        number = int(head) if head in _heads(self.network, layer) and head != ALL else None
        return view.attention_html(look, point, layer=layer, head=number)


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
                # Its value is where the query is.
                picture = gr.HTML(html_template=view.PICTURE, js_on_load=MOVE, elem_id="picture", **view.NO_PICTURE)
            panels = [_panel(network, number) for number, network in enumerate(networks, start=1)]

        def refuse(error: checks.InputError) -> list[Any]:
            return [None, view.refused_html(str(error)), *[gr.skip()] * (2 + len(panels))]

        def show(image: WebImage) -> list[Any]:
            try:
                opened = open_image(image, networks)
            except checks.InputError as error:
                return refuse(error)
            shown = gr.HTML(view.query(opened), **view.picture(opened))
            return [None, "", opened, shown, *(view.prediction_html(look) for look in opened.looks)]

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
            """The message, and the heat maps of each panel, for layer, head, layer, head, ..."""
            if query is None:
                return [gr.skip()] * (1 + len(panels))
            if opened is None or opened.number != query["image"]:
                return [view.refused_html(GONE), *[""] * len(panels)]
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
        gr.HTML(view.title_html(network.title))
        return Panel(
            network,
            prediction=gr.HTML(elem_id=f"prediction-{number}"),
            layer=gr.Dropdown(layers, value=layers[-1], label="Attention layer", interactive=True),
            head=gr.Radio(_heads(network, layers[-1]), value=ALL, label="Head", interactive=True),
            maps=gr.HTML(elem_id=f"attention-{number}"),
        )


def _choose_head(network: WebNetwork, layer: str, head: str) -> Any:
    """The heads of another layer, of which ``head`` stays chosen if it is one of them."""
    import gradio as gr

    heads = _heads(network, layer)
    return gr.Radio(heads, value=head if head in heads else ALL)


def _heads(network: WebNetwork, layer: str) -> list[str]:
    """What can be chosen: all heads of the layer, or each of several."""
    count = network.layers[layer]
    return [ALL, *(str(number) for number in range(1, count + 1) if count > 1)]
