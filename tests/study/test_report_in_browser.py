"""The page in headless Chromium, as a reader sees it: wide and on a phone, light and dark."""

import contextlib

import pytest
from chromium import DESK, PHONE
from study.planted import PLAN, all_done, diverged, keep, plan, undone

from attnconv.explain import far_pairs_figure
from attnconv.recipes import load_trained, run
from attnconv.report.page import svg_file
from attnconv.study import report
from attnconv.study.drawings import Drawing
from attnconv.study.report import write_report
from attnconv.train.config import RunConfig

# Elements that are wider than the page or than their own box.
WIDER = """() => {
  const inside = (e) => e.parentElement && e.parentElement.closest('svg');
  const wide = [...document.body.querySelectorAll('*')].filter(
    (e) => !inside(e) && (e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5
      || (e.matches('td, figure') && e.scrollWidth > e.clientWidth + 1)));
  const root = document.documentElement;
  return [root.scrollWidth - root.clientWidth, wide.map((e) => e.outerHTML.slice(0, 80))];
}"""
# Text and background of each kind of element, as red, green, blue, alpha of 0 to 1.
COLOURS = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].map((part) => part / 255);
  };
  const kinds = ['h1', 'h2', 'h3', 'p', 'li', 'th', 'td', 'tr.marked td', 'pre', 'summary', 'figcaption', 'footer',
                 '.better strong', '.worse strong'];
  return kinds.filter((kind) => document.querySelector(kind)).map((kind) => {
    const element = document.querySelector(kind), layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(rgba(getComputedStyle(e).backgroundColor));
    return [kind, rgba(getComputedStyle(element).color), layers];
  });
}"""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """Blocks, a diverged run, a failed one with much to say, long names, published numbers, and an attention map."""
    blocks = ("a-block-with-a-name-that-is-longer-than-a-phone-is-wide-at-any-size", "short")
    arms = {
        f"{block}/{arm}": {**options, "epochs": epochs}
        for block, epochs in zip(blocks, (5, 3), strict=True)
        for arm, options in PLAN["arms"].items()
    }
    published = {"short/aa": {"value": 81.6, "source": "A paper with a rather long title, table 1, its appendix"}}
    study = plan(arms=arms, published=published, seeds=9, text=f"What does {'x' * 200} ask?")
    records = [diverged(r["arm"], 1) if (r["arm"], r["seed"]) == ("short/aa", 1) else r for r in all_done(study)]
    records[-1] = undone(records[-1]["arm"], 8, "failed", "RuntimeError: " + "out of memory " * 20 + "/" * 120)
    folder = keep(tmp_path_factory.mktemp("study"), study, records)
    options = {"data": "far-pairs", "epochs": 1, "train_subset": 32, "batch_size": 32, "device": "cpu", "workers": 0}
    run(RunConfig(model="aa_convnet3", **options), folder.parent / "run", progress=False)
    figure = far_pairs_figure(load_trained(folder.parent / "run", device="cpu"))
    shown = Drawing(svg_file(figure), "attention", "What the middle of the left glyph attends to.")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "attention_drawings", lambda _, __, block, ___: ([shown] * (block == "short"), []))
        write_report(folder)
    return folder / "report.html"


@contextlib.contextmanager
def opened(browser, path, *, size=DESK, scheme="light"):
    """The page, and what it asked for and complained of beside itself."""
    context = browser.new_context(viewport=size, color_scheme=scheme)
    context.set_offline(True)
    page, noted = context.new_page(), []
    page.on("request", lambda request: noted.append(f"asked for {request.url}"))
    page.on("console", lambda message: noted.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: noted.append(f"error: {error}"))
    page.goto(path.as_uri(), wait_until="load")
    assert noted.pop(0) == f"asked for {path.as_uri()}"
    yield page, noted
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 768, 1280, 1920])
def test_nothing_is_cut_nothing_is_asked_for_nothing_goes_wrong(browser, page_file, width, scheme):
    with opened(browser, page_file, size={"width": width, "height": 900}, scheme=scheme) as (page, noted):
        page.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
        assert page.evaluate(WIDER) == [0, []]
        assert noted == []


def test_the_first_screen_of_a_desk_shows_the_verdict(browser, page_file):
    with opened(browser, page_file) as (page, _):
        places = page.evaluate(
            "['.verdict figure', '.findings li', 'table', '.beside', 'details'].map("
            "(e) => document.querySelector(e).getBoundingClientRect().top)"
        )
        assert places == sorted(places)
        assert places[1] < DESK["height"]
        assert page.locator("details[open]").count() == 0


def test_figures_fill_a_phone(browser, page_file):
    with opened(browser, page_file, size=PHONE) as (page, _):
        drawings = "[...document.querySelectorAll('figure svg')]"
        widths = page.evaluate(f"{drawings}.map((e) => e.getBoundingClientRect().width)")
        assert len(widths) == 8
        assert all(290 < width <= 360 for width in widths)


def test_figures_stand_side_by_side_on_a_desk(browser, page_file):
    with opened(browser, page_file) as (page, _):
        tops = page.evaluate(
            "[...document.querySelectorAll('.beside figure')].map((e) => e.getBoundingClientRect().top)"
        )
        assert tops[0] == tops[1] == tops[2]


FILLS = """() => ['[id*="patch_"] > path', '[id*="text_"] use, [id*="text_"] path'].map((kind) => {
  const fill = getComputedStyle(document.querySelector(`figure svg ${kind}`)).fill;
  return fill.match(/\\d+/g).slice(0, 3).map((part) => part / 255);
})"""


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_figures_follow_the_colour_scheme(browser, page_file, scheme, dark):
    with opened(browser, page_file, scheme=scheme) as (page, _):
        back, text = map(luminance, page.evaluate(FILLS))
    assert (back < 0.05, text > 0.7) == (dark, dark)


def over(layers):
    """The colour that layers make, the first on top of the others."""
    colour = [1.0, 1.0, 1.0]
    for *rgb, alpha in reversed(layers):
        colour = [alpha * top + (1 - alpha) * below for top, below in zip(rgb, colour, strict=True)]
    return colour


def luminance(rgb):
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgb]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_text_can_be_read(browser, page_file, scheme, dark):
    with opened(browser, page_file, scheme=scheme) as (page, _):
        found = page.evaluate(COLOURS)
    for kind, text, layers in found:
        back, front = luminance(over(layers)), luminance(over([text, *layers]))
        low, high = sorted((back, front))
        assert (high + 0.05) / (low + 0.05) >= 4.5, kind
    backs = {kind: luminance(over(layers)) for kind, _, layers in found}
    assert (backs["p"] < 0.1) == dark


def test_what_these_tests_look_for_is_found(browser, tmp_path):
    wide = '<table style="width: 900px"><tr><td>1</td></tr></table><img src="http://example.invalid/a.png">'
    text = (
        f'<!doctype html><meta name="viewport" content="width=device-width">{wide}<script>console.error("no")</script>'
    )
    (tmp_path / "bad.html").write_text(text)
    with opened(browser, tmp_path / "bad.html", size=PHONE) as (page, noted):
        over_by, elements = page.evaluate(WIDER)
        assert over_by > 500
        assert elements[0].startswith("<table")
        assert "asked for http://example.invalid/a.png" in noted
        assert "error: no" in noted
