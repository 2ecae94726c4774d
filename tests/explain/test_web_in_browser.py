"""The page in headless Chromium: a drop, clicks, choices, files that are no images, two tabs, a phone."""

import base64
import contextlib
import os
import re
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
import torch
from chromium import DESK, PHONE
from explain.served import served
from PIL import Image
from torch import nn

from attnconv import AugmentedConv2d, SelfAttention
from attnconv.cli.explain import example_images, web_network
from attnconv.data.decode import read_bytes
from attnconv.explain.web_page import attention_html, prediction_html
from attnconv.explain.web_session import WebImage, WebNetwork, open_image

LIMIT = 20_000  # bytes of an upload
DROP = """([element, name, content]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0)), files = new DataTransfer();
  files.items.add(new File([bytes], name));
  for (const type of ['dragenter', 'dragover', 'drop'])
    element.dispatchEvent(new DragEvent(type, {dataTransfer: files, bubbles: true, cancelable: true}));
}"""

# What reaches further to the right than the box for files does.
WIDER = """() => {
  const right = (element) => element.getBoundingClientRect().right, edge = right(document.querySelector('#drop'));
  const ours = [...document.querySelectorAll('.frame, .likely *, .maps *, .scale *, .note, .title')];
  return ours.filter((element) => right(element) > edge + 0.5).map((element) => element.outerHTML.slice(0, 80));
}"""


@pytest.fixture(scope="module")
def networks():
    """The example, and one that crops its images to a square and has layers of two heads and of one."""
    torch.manual_seed(0)
    layer = AugmentedConv2d(1, 4, 3, padding=1, key_channels=4, value_channels=2, num_heads=2, feat_size=16)
    model = nn.Sequential(layer, SelfAttention(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    example = web_network(None, device="cpu")
    meta = {**example.meta, "image_size": [16, 16], "classes": ["<b>same</b>", "{{different}}"]}
    return [example, WebNetwork("runs/<i>another</i>", model.eval(), meta, torch.device("cpu"))]


@pytest.fixture(scope="module")
def site(networks):
    with served(networks, example_images(), max_bytes=LIMIT) as address:
        yield address


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90), dtype=np.uint8)).save(path)
    return path


def kept_files():
    """What was uploaded and is still there."""
    return [path for path in Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*") if path.is_file() and path.stat().st_size]


class Tab:
    """A page that is open, and what it was asked for."""

    def __init__(self, page, address):
        self.page, self.requests = page, []
        page.set_default_timeout(60_000)
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(address)
        self.shows("far-pairs, same")

    def shows(self, name):
        """Wait until the image of this name is there."""
        self.page.locator(f'.frame img[alt="{name}"]').wait_for()

    def click(self, row, column):
        """On the middle of a pixel."""
        rows, columns = map(int, re.search(r"(\d+) x (\d+) pixels", self.text("#picture")).groups())
        frame = self.page.locator(".frame")
        box = frame.bounding_box()
        frame.click(position={"x": (column + 0.5) / columns * box["width"], "y": (row + 0.5) / rows * box["height"]})

    def drop(self, name, content):
        zone = self.page.locator("#drop button").first
        zone.evaluate(
            f"(element, [name, content]) => ({DROP})([element, name, content])",
            [
                name,
                base64.b64encode(content).decode(),
            ],
        )

    def heat_maps(self, number=1):
        return self.page.locator(f"#network-{number} .cells").evaluate_all("all => all.map((map) => map.src)")

    def wait_for_heat_maps(self, expected, number=1):
        """Wait until those of a network are ``expected``, pictures to the last bit."""
        self.page.wait_for_function(
            "([id, wanted]) => [...document.querySelectorAll(`${id} .cells`)].map((map) => map.src).join() === wanted",
            arg=[f"#network-{number}", ",".join(expected)],
        )

    def text(self, place):
        return self.page.locator(place).inner_text().strip()


@pytest.fixture
def open_tab(browser, site):
    with contextlib.ExitStack() as stack:

        def new(size=DESK, scheme="light"):
            context = browser.new_context(viewport=size, color_scheme=scheme)
            stack.callback(context.close)
            return Tab(context.new_page(), site)

        yield new


def maps_of(opened, number, point, layer=None, head=None):
    """The heat maps of a network as a page shows them: addresses that hold the pictures."""
    layer = layer or ("layer3.0", "1")[number - 1]
    page = attention_html(opened.looks[number - 1], point, layer=layer, head=head)
    return re.findall(r'class="cells"[^>]* src="([^"]*)"', page)


def test_a_click_moves_the_query_and_the_heat_maps_follow(open_tab, networks):
    tab, opened = open_tab(), open_image(example_images()[0], networks)
    tab.wait_for_heat_maps(maps_of(opened, 1, opened.point))
    assert len(tab.heat_maps()) == 4
    assert "same\n" in tab.text("#prediction-1")
    tab.click(1, 1)
    tab.click(2, 9)
    tab.click(8, 29)
    expected = maps_of(opened, 1, (8, 29))
    assert expected != maps_of(opened, 1, opened.point)
    tab.wait_for_heat_maps(expected)
    assert "Query: row 8, column 29." in tab.text("#picture")
    # The crop of the other one has no such column.
    assert "8,29 is cut away before the network sees the image" in tab.text("#attention-2")
    tab.page.keyboard.press("ArrowUp")
    tab.wait_for_heat_maps(maps_of(opened, 1, (7, 29)))
    tab.page.locator("#network-1").get_by_role("radio", name="3").check()
    tab.wait_for_heat_maps(maps_of(opened, 1, (7, 29), head=3))
    assert "<i>another</i>" in tab.text("#network-2 h3")
    assert "{{different}}" in tab.text("#prediction-2")
    asked = [urlparse(url) for url in tab.requests if not url.startswith("data:")]
    assert {url.hostname for url in asked} == {"127.0.0.1"}
    assert not [url.path for url in asked if "/queue/" in url.path]  # whose answers can be lost


def test_of_many_clicks_and_choices_the_last_ones_are_shown(open_tab, networks):
    tab, opened = open_tab(), open_image(example_images()[0], networks)
    heads = tab.page.locator("#network-1").get_by_role("radio")
    for i in range(12):
        tab.click(1 + i // 2, 2 + i % 5)
        heads.nth(1 + i % 4).check()
    tab.click(14, 30)
    tab.wait_for_heat_maps(maps_of(opened, 1, (14, 30), head=4))
    tab.page.wait_for_timeout(1000)  # milliseconds: no answer that was late takes its place
    assert tab.heat_maps() == maps_of(opened, 1, (14, 30), head=4)


def test_layers_and_heads_are_chosen(open_tab, networks):
    tab, opened = open_tab(), open_image(example_images()[0], networks)
    panel = tab.page.locator("#network-2")
    tab.click(8, 12)
    tab.wait_for_heat_maps(maps_of(opened, 2, (8, 12)), number=2)
    assert panel.get_by_role("radio").count() == 1
    for layer, heads in (("0", 2), ("1", 1)):  # the second, which is shown first, has no head 2
        panel.get_by_label("Attention layer").click()
        panel.get_by_role("option", name=layer).click()
        tab.wait_for_heat_maps(maps_of(opened, 2, (8, 12), layer), number=2)
        if heads > 1:
            panel.get_by_role("radio", name=str(heads)).check()
            tab.wait_for_heat_maps(maps_of(opened, 2, (8, 12), layer, heads), number=2)
            assert panel.get_by_role("radio").count() == 1 + heads
    assert tab.heat_maps() == maps_of(opened, 1, (8, 12))


def test_an_image_is_dropped(open_tab, networks, photo):
    tab, opened = open_tab(), open_image(WebImage("photo.png", read_bytes(photo)), networks)
    tab.drop("photo.png", photo.read_bytes())
    tab.shows("photo.png")
    tab.wait_for_heat_maps(maps_of(opened, 1, opened.point))
    tab.wait_for_heat_maps(maps_of(opened, 2, opened.point), number=2)
    percent = re.search(r"[\d.]+%", prediction_html(opened.looks[0]))
    assert kept_files() == []
    assert percent[0] in tab.text("#prediction-1")
    tab.click(50, 60)
    tab.wait_for_heat_maps(maps_of(opened, 2, (50, 60)), number=2)
    tab.page.get_by_role("button", name="far-pairs, different").click()
    tab.shows("far-pairs, different")


def test_files_that_are_no_images_leave_the_page_as_it_was(open_tab, photo, networks):
    tab, opened = open_tab(), open_image(example_images()[0], networks)
    for name, content, message in (
        (
            "notes.jpg",
            b"no image",
            "cannot decode image notes.jpg: it is no image, or of a format unknown here (known: ",
        ),
        ("half.png", photo.read_bytes()[:2000], "cannot decode image half.png: "),
        ("drawn.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "cannot decode image drawn.svg: it is no image"),
        ("empty.png", b"", "cannot decode image empty.png: the file is empty."),
    ):
        tab.drop(name, content)
        tab.page.locator("#message").get_by_text(message).wait_for()
    tab.drop("large.png", bytes(LIMIT + 1))
    tab.page.get_by_text('exceed the maximum allowed size of 19.5 Kb: "large.png"').wait_for()
    tab.shows("far-pairs, same")
    tab.click(3, 4)
    tab.wait_for_heat_maps(maps_of(opened, 1, (3, 4)))
    assert tab.text("#message") == ""
    assert kept_files() == []
    tab.drop("photo.png", photo.read_bytes())
    tab.shows("photo.png")


def test_two_tabs_do_not_see_each_other(open_tab, networks, photo):
    one, other = open_tab(), open_tab()
    first, second = (open_image(image, networks) for image in (example_images()[0], WebImage("p", read_bytes(photo))))
    other.drop("photo.png", photo.read_bytes())
    other.shows("photo.png")
    other.page.locator("#network-1").get_by_role("radio", name="2").check()
    one.click(12, 20)
    one.wait_for_heat_maps(maps_of(first, 1, (12, 20)))
    other.click(40, 50)
    other.wait_for_heat_maps(maps_of(second, 1, (40, 50), head=2))
    one.page.locator("#network-1").get_by_role("radio", name="4").check()
    one.wait_for_heat_maps(maps_of(first, 1, (12, 20), head=4))
    assert other.heat_maps() == maps_of(second, 1, (40, 50), head=2)
    assert "Query: row 40, column 50." in other.text("#picture")
    assert "far-pairs, same" in one.text("#picture")


def test_it_fits_a_phone_light_and_dark(open_tab):
    backgrounds = []
    for scheme in ("light", "dark"):
        tab = open_tab(PHONE, scheme)
        tab.page.locator("#network-2 .note").first.wait_for()
        root = tab.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert root == [PHONE["width"]] * 2
        assert tab.page.evaluate(WIDER) == []
        box = tab.page.locator(".frame").bounding_box()
        assert box["width"] > 0.7 * PHONE["width"]
        backgrounds.append(tab.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert backgrounds[0] != backgrounds[1]
