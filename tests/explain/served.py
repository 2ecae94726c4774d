"""A page that is served while tests look at it.

``python tests/explain/served.py FILE`` leaves the screenshot of the docs, of the packaged network, in FILE.
"""

import contextlib
import sys
import threading
from functools import partial
from pathlib import Path

from attnconv.cli.explain import example_photos, web_network
from attnconv.explain.web_page import WebPage
from attnconv.explain.web_server import web_server


@contextlib.contextmanager
def served(networks, samples=(), **options):
    """The address of a page of ``networks`` that begins with the first of ``samples``; ``options`` are web_server's."""
    with web_server(partial(WebPage, networks, samples), port=0, **options) as (address, server):
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield address
        finally:
            server.should_exit = True
            thread.join()


def take_screenshot(path, size=None, scheme="light"):
    from chromium import DESK, chromium

    with served([web_network(None, device="cpu")], example_photos()) as address, chromium() as browser:
        page = browser.new_page(viewport=size or {**DESK, "height": 700}, color_scheme=scheme)
        page.goto(address)
        page.locator(".large img").first.wait_for()
        page.locator("summary").click()
        page.locator(".small img").first.wait_for()
        page.screenshot(path=path, full_page=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    take_screenshot(sys.argv[1])
