"""The page of `attnconv explain --web`: which networks and images it shows, and its life from address to Ctrl-C."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attnconv.data.decode import read_bytes
from attnconv.explain.web import HOST, WebImage, WebNetwork, WebServer, open_image, web_page
from attnconv.signals import Terminated, termination_raised

if TYPE_CHECKING:
    import gradio as gr


def serve_page(
    run: Path | None,
    image: Path | None,
    *,
    compare: Path | None,
    host: str | None,
    port: int | None,
    checkpoint: str,
    device: str,
    trust: bool,
) -> None:
    """Print the page's address and serve it until Ctrl-C, which is how one ends it: no failure.

    Args:
        run: None for the network and the images of the example.
        image: what a tab begins with.
        compare: a second network's run.
        host, port: as WebServer's.
        checkpoint, device, trust: as `load_trained`'s.
    """

    def make_page() -> "gr.Blocks":
        networks = [example_network(device) if run is None else _network(run, checkpoint, device, trust)]
        if compare is not None:
            networks.append(_network(compare, checkpoint, device, trust))
        images = example_images() if run is None else []
        if image is not None:
            images = [WebImage(str(image), read_bytes(image))]
            open_image(images[0], networks)  # a file that is no image is refused here, before there is a page
        return web_page(networks, images, first=images[0] if images else None)

    with termination_raised(), WebServer(make_page, host=host or HOST, port=port) as server:
        try:
            server.run(lambda: print(f"{server.address} (Ctrl-C ends it)", flush=True))
        except Terminated:
            raise
        except KeyboardInterrupt:
            print()  # below the terminal's ^C


def _network(path: Path, checkpoint: str, device: str, trust: bool) -> WebNetwork:
    from attnconv.recipes import load_trained

    trained = load_trained(path, checkpoint=checkpoint, device=device, trust=trust)
    trained.require_layers("explain")
    return WebNetwork(str(path), trained.model, trained.meta, trained.device)


def example_network(device: str) -> WebNetwork:
    """The network that the package brings."""
    from attnconv.recipes.example import load_example

    trained = load_example(device)
    title = f"The example network, {trained.scores['top1']:.1f}% right"
    return WebNetwork(title, trained.model, trained.meta, trained.device)


def example_images() -> list[WebImage]:
    """Its images, with the left glyph as the query."""
    from attnconv.recipes import example

    found = []
    for shown in example.example_images():
        file = io.BytesIO()
        shown.image.save(file, "PNG")
        content = np.frombuffer(file.getvalue(), dtype=np.uint8)
        found.append(WebImage(f"far-pairs, {shown.label}", content, shown.point))
    return found
