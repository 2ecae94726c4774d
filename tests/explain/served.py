"""A page that is served while tests look at it.

``python tests/explain/served.py FILE`` leaves the screenshot of the docs, of the example network, in FILE.
"""

import contextlib
import sys
import threading
from functools import partial
from pathlib import Path

from attnconv.cli.explain import example_images, web_network
from attnconv.explain.web_page import web_page
from attnconv.explain.web_server import web_server


@contextlib.contextmanager
def served(networks, images=(), **options):
    """The address of a page of ``networks`` that begins with the first of ``images``; ``options`` are web_server's."""
    page = partial(web_page, networks, images, first=images[0] if images else None)
    with web_server(page, port=0, **options) as (address, server):
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield address
        finally:
            server.should_exit = True
            thread.join()


def take_screenshot(path):
    from chromium import DESK, chromium

    with served([web_network(None, device="cpu")], example_images()) as address, chromium() as browser:
        page = browser.new_page(viewport={**DESK, "height": 700})
        page.goto(address)
        page.locator(".cells").first.wait_for()
        page.wait_for_timeout(2000)  # milliseconds, in which Gradio fades in what it was waiting for
        page.screenshot(path=path, full_page=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    take_screenshot(sys.argv[1])
