"""The page in headless Chromium: a drop, clicks, choices, files that are no images, two tabs, a phone."""

import base64
import contextlib
import re
from urllib.parse import urlparse

import numpy as np
import pytest
import torch
from chromium import DESK, PHONE
from explain.served import served
from PIL import Image
from torch import nn

from attnconv import AugmentedConv2d, SelfAttention
from attnconv.cli.explain import example_photos, web_network
from attnconv.data.decode import read_bytes
from attnconv.explain.web_page import WebImage, WebNetwork, WebPage

LIMIT = 200_000  # bytes of a file
DROP = """([name, content]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0)), files = new DataTransfer();
  files.items.add(new File([bytes], name));
  for (const type of ['dragover', 'drop'])
    document.dispatchEvent(new DragEvent(type, {dataTransfer: files, bubbles: true, cancelable: true}));
}"""

# What reaches further to the right than the page is wide.
WIDER = """() => [...document.querySelectorAll('body *')]
  .filter((element) => element.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
  .map((element) => element.outerHTML.slice(0, 80))
"""


@pytest.fixture(scope="module")
def networks():
    """The packaged network, and one that sees grey images and has layers of two heads and of one."""
    torch.manual_seed(0)
    layer = AugmentedConv2d(1, 4, 3, padding=1, key_channels=4, value_channels=2, num_heads=2, feat_size=16)
    model = nn.Sequential(layer, SelfAttention(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    example = web_network(None, device="cpu")
    facts = {"channels": 1, "mean": [0.5], "std": [0.25], "image_size": [16, 16], "resize_ratio": 2.0}
    meta = {**example.meta, **facts, "classes": ["<b>same</b>", "{{different}}"]}
    return [example, WebNetwork("runs/<i>another</i>", model.eval(), meta, torch.device("cpu"))]


@pytest.fixture(scope="module")
def site(networks):
    with served(networks, example_photos(), max_bytes=LIMIT) as address:
        yield address


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90), dtype=np.uint8)).save(path)
    return path


class Tab:
    """A page that is open, and what it was asked for."""

    def __init__(self, page, address):
        self.page, self.requests = page, []
        page.set_default_timeout(60_000)
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(address)
        self.shows("raccoon.jpg")

    def shows(self, name):
        """Wait until the image of this name is there, and its maps are."""
        self.page.locator(f'#photo[alt="{name}"]').wait_for()
        self.page.locator(".large img").first.wait_for()

    def click(self, row, column, rows, columns):
        """On the middle of a pixel of an image of that size."""
        frame = self.page.locator("#frame")
        box = frame.bounding_box()
        frame.click(position={"x": (column + 0.5) / columns * box["width"], "y": (row + 0.5) / rows * box["height"]})

    def drop(self, name, content):
        self.page.evaluate(
            f"([name, content]) => ({DROP})([name, content])", [name, base64.b64encode(content).decode()]
        )

    def section(self, number):
        return self.page.locator("main > section").nth(number)

    def wait_for_maps(self, expected, number=1):
        """Wait until the pictures of a network are ``expected``, to the last bit."""
        self.page.wait_for_function(
            "([number, wanted]) => [...document.querySelectorAll(`main > section:nth-child(${number + 1}) figure img`)]"
            ".map((map) => map.src).join() === wanted",
            arg=[number, ",".join(expected)],
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


def maps_of(networks, image, point, number=1, layer=None, heads=False):
    """The pictures of a network as a page shows them."""
    page = WebPage(networks)
    opened = page.open(image)
    layers = [len(one.layers) - 1 for one in networks]
    if layer is not None:
        layers[number - 1] = layer
    answer = page.attend(opened["image"], point or opened["point"], layers, heads=heads)[number - 1]
    return [one["picture"] for one in answer["pictures"]]


RACCOON = (600, 800)


def test_a_click_moves_the_query_and_the_maps_follow(open_tab, networks):
    tab, raccoon = open_tab(), example_photos()[0]
    tab.wait_for_maps(maps_of(networks, raccoon, None))
    for point in ((100, 300), (200, 310), (310, 330)):
        tab.click(*point, *RACCOON)
    tab.wait_for_maps(maps_of(networks, raccoon, (310, 330)))
    row, column = map(int, re.search(r"Query: row (\d+), column (\d+)\.", tab.text("#place")).groups())
    assert max(abs(row - 310), abs(column - 330)) <= 2
    tab.click(10, 200, *RACCOON)  # outside the crop of the other one
    tab.section(2).get_by_text("is cut away before the network sees the image").wait_for()
    tab.wait_for_maps(maps_of(networks, raccoon, (10, 200)))
    row, column = map(int, re.search(r"Query: row (\d+), column (\d+)\.", tab.text("#place")).groups())
    tab.page.locator("#frame").focus()
    tab.page.keyboard.press("ArrowDown")  # a sixteenth of the image
    moved = rf"Query: row ({row + 37}|{row + 38}), column {column}\."
    tab.page.get_by_text(re.compile(moved)).wait_for()
    assert "<i>another</i>" in tab.section(2).inner_text()
    assert "{{different}}" in tab.section(2).inner_text()
    asked = [urlparse(url) for url in tab.requests if not url.startswith("data:")]
    assert {url.hostname for url in asked} == {"127.0.0.1"}


def test_heads_are_behind_a_fold(open_tab, networks):
    tab, raccoon = open_tab(), example_photos()[0]
    fold = tab.section(1).locator("summary")
    assert re.fullmatch(r"4 heads share one scale: 0\.016 to 0\.\d+", fold.inner_text())
    fold.click()
    tab.wait_for_maps(maps_of(networks, raccoon, None, heads=True))
    assert tab.section(1).locator(".small img").count() == 4
    assert not tab.section(2).locator("summary").is_visible()  # a layer of one head


def test_layers_are_chosen(open_tab, networks):
    tab, raccoon = open_tab(), example_photos()[0]
    tab.section(2).get_by_label("Attention layer").select_option("0")
    tab.wait_for_maps(maps_of(networks, raccoon, None, number=2, layer=0), number=2)
    assert tab.section(1).get_by_label("Attention layer").locator("option").count() == len(networks[0].layers)


def test_of_many_clicks_the_last_one_is_shown(open_tab, networks):
    tab, raccoon = open_tab(), example_photos()[0]
    for i in range(12):
        tab.click(100 + 10 * i, 250 + 10 * (i % 5), *RACCOON)
    tab.click(222, 333, *RACCOON)
    expected = maps_of(networks, raccoon, (222, 333))
    tab.wait_for_maps(expected)
    tab.page.wait_for_timeout(1000)  # milliseconds: no answer that was late takes its place
    tab.wait_for_maps(expected)


def test_an_image_is_dropped(open_tab, networks, photo):
    tab = open_tab()
    tab.drop("photo.png", photo.read_bytes())
    tab.shows("photo.png")
    tab.wait_for_maps(maps_of(networks, WebImage("photo.png", read_bytes(photo)), None))
    assert "photo.png, 60 x 90 pixels." in tab.text("#place")
    tab.page.get_by_role("button", name="raccoon.jpg").click()
    tab.shows("raccoon.jpg")


def test_a_click_on_a_narrow_part_counts_from_its_edge(open_tab, tmp_path):
    """The network sees columns 740 to 859 of 1600 x 120 pixels, and the page shows these."""
    Image.effect_noise((1600, 120), 60).save(tmp_path / "wide.png")
    tab = open_tab()
    tab.drop("wide.png", (tmp_path / "wide.png").read_bytes())
    tab.shows("wide.png")
    said = (
        "wide.png, 120 x 1600 pixels; the network sees 8 % of this photo: columns 740 to 859. Query: row {}, column {}."
    )
    assert tab.text("#place") == said.format(60, 800)
    tab.click(90, 30, 120, 120)
    tab.page.get_by_text(said.format(90, 770)).wait_for()


def test_files_that_are_no_images_leave_the_page_as_it_was(open_tab, photo):
    tab = open_tab()
    for name, content, message in (
        ("notes.jpg", b"no image", "cannot decode image notes.jpg: it is no image, or of a format unknown here"),
        ("half.png", photo.read_bytes()[:2000], "cannot decode image half.png: "),
        ("empty.png", b"", "cannot decode image empty.png: the file is empty."),
        ("large.png", bytes(LIMIT + 1), "a request holds at most 200,000 bytes."),
    ):
        tab.drop(name, content)
        tab.page.locator("#message").get_by_text(message).wait_for()
    tab.shows("raccoon.jpg")
    tab.click(200, 300, *RACCOON)
    tab.page.wait_for_function("() => document.querySelector('#message').textContent === ''")
    tab.drop("photo.png", photo.read_bytes())
    tab.shows("photo.png")


def test_two_tabs_do_not_see_each_other(open_tab, networks, photo):
    one, other = open_tab(), open_tab()
    other.drop("photo.png", photo.read_bytes())
    other.shows("photo.png")
    one.click(200, 300, *RACCOON)
    one.wait_for_maps(maps_of(networks, example_photos()[0], (200, 300)))
    other.click(40, 50, 60, 90)
    other.wait_for_maps(maps_of(networks, WebImage("photo.png", read_bytes(photo)), (40, 50)))
    assert "raccoon.jpg" in one.text("#place")


def test_it_fits_a_phone_light_and_dark(open_tab):
    backgrounds = []
    for scheme in ("light", "dark"):
        tab = open_tab(PHONE, scheme)
        tab.section(1).locator("summary").click()
        tab.page.locator(".small img").first.wait_for()
        root = tab.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert root == [PHONE["width"]] * 2
        assert tab.page.evaluate(WIDER) == []
        assert tab.page.locator("#frame").bounding_box()["width"] > 0.7 * PHONE["width"]
        backgrounds.append(tab.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert backgrounds[0] != backgrounds[1]
