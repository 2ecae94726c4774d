"""The site is built without a network, strictly and completely, and fetches nothing from outside."""

import importlib
import re
import subprocess
import sys
import zlib
from html.parser import HTMLParser

import griffe
import pytest
import yaml
from chromium import DESK, PHONE
from docs.blocks import ROOT
from test_public_api import MODULES, names_of

pytest.importorskip("mkdocs", reason="no mkdocs: pip install 'attnconv[docs]'")
sys.path.insert(0, str(ROOT))
docs_hooks = importlib.import_module("docs_hooks")
sys.path.remove(str(ROOT))

# Not --quiet: mkdocs would not count the warnings, and strict would pass.
BUILD = """
import socket, sys
def refuse(*_, **__):
    raise RuntimeError("the build asks for the network")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from mkdocs.__main__ import cli
cli(["build", "--strict", "--config-file", sys.argv[1], "--site-dir", sys.argv[2]])
"""


def build(config, site):
    command = [sys.executable, "-c", BUILD, str(config), str(site)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stderr
    return folder


# Addresses that a browser fetches by itself: attributes of tags, and some relations of <link>.
FETCHED = {"src", "srcset", "poster", "data"}
RELATIONS = {"stylesheet", "preload", "prefetch", "modulepreload", "preconnect", "dns-prefetch", "icon", "manifest"}
OUTSIDE = re.compile(r"^\s*(?:https?:)?//")
IN_STYLE = re.compile(r"(?:@import\s+|url\()\s*[\"']?([^\"')\s;]+)")


class Fetches(HTMLParser):
    """Collects the addresses that a page fetches."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = {name: value or "" for name, value in attrs}
        self.found += [given[name] for name in FETCHED & given.keys()]
        if tag == "link" and RELATIONS & set(given.get("rel", "").split()):
            self.found.append(given.get("href", ""))
        self.found += IN_STYLE.findall(given.get("style", ""))

    def handle_data(self, data):
        if self.cdata_elem == "style":
            self.found += IN_STYLE.findall(data)


def outside(path):
    text = path.read_text(encoding="utf-8")
    found = Fetches(text).found if path.suffix == ".html" else IN_STYLE.findall(text)
    return [address for address in found if OUTSIDE.match(address)]


def test_nothing_is_fetched_from_outside(site):
    files = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(files) > 30
    assert {str(path.relative_to(site)): found for path in files if (found := outside(path))} == {}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("page.html", '<script src="https://cdn.example/a.js"></script>'),
        ("page.html", '<link rel="stylesheet" href="//cdn.example/a.css">'),
        ("page.html", '<img alt="" src="http://cdn.example/a.png">'),
        ("page.html", "<style>@import 'https://cdn.example/a.css';</style>"),
        ("page.css", "@font-face { src: url(https://cdn.example/a.woff2) }"),
    ],
)
def test_what_is_fetched_from_outside_would_be_seen(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert len(outside(tmp_path / name)) == 1


def test_the_reference_shows_every_public_function_and_class_and_nothing_private(site):
    body = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    shown = {line.split()[0] for line in body.splitlines()}
    assert [name for name in shown if "._" in name] == []
    public = [getattr(importlib.import_module(module), name) for module in MODULES for name in names_of(module)]
    public = {f"{thing.__module__}.{thing.__qualname__}" for thing in public if hasattr(thing, "__qualname__")}
    assert len(public) > 70
    assert public - shown == set()


def test_sections_of_docstrings_are_sections(site):
    texts = [path.read_text(encoding="utf-8") for path in (site / "reference").glob("*.html")]
    assert sum(text.count("Raises:</span>") for text in texts) > 20
    assert [re.findall(r"<p>[^<]*\b(?:Args|Attributes|Returns|Raises): ?", text) for text in texts] == [[]] * len(texts)


def test_formulas_are_mathml(site):
    pages = {path.name: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert [name for name, text in pages.items() if 'class="arithmatex"' in text] == []
    assert pages["augmented-conv.html"].count("<math") >= 8
    assert pages["statistics.html"].count("<math") >= 5


@pytest.mark.parametrize("tex", [r"\frac{1}{", r"\nosuchcommand{x}"])
def test_wrong_tex_ends_the_build(tex):
    with pytest.raises(docs_hooks.PluginError, match=r"page\.md: (invalid TeX|latex2mathml does not know)"):
        docs_hooks.mathml(tex, False, "page.md")


def test_a_section_that_readme_has_not_ends_the_build():
    assert "AugmentedConv2d" in docs_hooks.section("Attention in a layer", "page.md")
    with pytest.raises(docs_hooks.PluginError, match=r"README\.md has no section 'Nine lines'"):
        docs_hooks.section("Nine lines", "page.md")


PLANTED = '''
def f(one):
    """Do.

    Args:
        two: there is no such argument.
    """
'''


SILENT = '''
__all__ = ["C", "f", "LIMIT"]
LIMIT = 3
def f(): pass
def internal(): pass
class C:
    """Says what it is."""
    @property
    def size(self): pass
    def forward(self): pass
    def _private(self): pass
'''


@pytest.mark.parametrize("text", [SILENT, SILENT.replace("    def forward", "    def run")])
def test_a_public_name_without_a_docstring_ends_the_build(tmp_path, text):
    (tmp_path / "silent.py").write_text(text)
    extensions = griffe.load_extensions(docs_hooks.Docstrings)
    missing = "silent.C.size, silent.C.run" if "run" in text else "silent.C.size"
    with pytest.raises(docs_hooks.PluginError, match=rf"no docstring: {missing}, silent\.f$"):
        griffe.load("silent", search_paths=[tmp_path], extensions=extensions)


FIELDS = '''
@dataclass
class C:
    """One run."""
    model: str = _option("a", "Name: of a network.")
    plain: int = 3
'''


def test_help_texts_of_fields_become_attributes_and_their_defaults_stay_alone(tmp_path):
    (tmp_path / "fields.py").write_text(f"from dataclasses import dataclass\n{FIELDS}")
    extensions = griffe.load_extensions(docs_hooks.Docstrings)
    thing = griffe.load("fields", search_paths=[tmp_path], extensions=extensions)["C"]
    assert [str(thing.parameters[name].default) for name in ("model", "plain")] == ["'a'", "3"]
    assert thing.docstring.value == "One run.\n\nAttributes:\n    model: Name: of a network."


NOTEBOOK = """{"cells": [
    {"cell_type": "markdown", "source": ["# Title\\n", "to [A](index.md)"]},
    {"cell_type": "code", "source": ["print('cell')"]}
]}"""


def test_faults_end_the_build_and_notebooks_are_pages(tmp_path):
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    config |= {
        "docs_dir": "pages",
        "nav": ["index.md", "n.ipynb.md"],
        "hooks": [str(ROOT / "docs_hooks.py")],
        "extra_css": [],
    }
    (mkdocstrings,) = (plugin["mkdocstrings"] for plugin in config["plugins"] if "mkdocstrings" in plugin)
    python = mkdocstrings["handlers"]["python"]
    python["paths"] = [str(tmp_path)]
    python["options"]["extensions"] = [f"{ROOT / 'docs_hooks.py'}:Docstrings"]
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(config))
    (tmp_path / "planted.py").write_text(PLANTED)
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "index.md").write_text("[b](b.md) [c](c.md#no) [d](../d) [n](n.ipynb)\n\n::: planted.f\n")
    (tmp_path / "pages" / "n.ipynb").write_text(NOTEBOOK)
    (tmp_path / "pages" / "c.md").write_text("# C\n")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 1
    for fault in (
        "link 'b.md'",
        "anchor '#no'",
        "link '../d'",
        "Parameter 'two' does not appear in the function signature",
        'not included in the "nav" configuration:\n  - c.md',
    ):
        assert fault in done.stderr
    assert done.stderr.count("WARNING") == 6, done.stderr  # of the argument, two
    page = (tmp_path / "site" / "n.ipynb.html").read_text()
    assert '<a href="index.html">A</a>' in page
    assert "cell" in re.sub(r"<[^>]+>", "", page)
    assert 'href="n.ipynb.html"' in (tmp_path / "site" / "index.html").read_text()


def test_search_finds_without_a_server_or_a_network(browser, site):
    context = browser.new_context(viewport=DESK)
    context.set_offline(True)
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((site / "quick-start.html").as_uri())
    page.locator(".md-search__input").press_sequentially("noncentral")
    first = page.locator(".md-search-result__link").first
    first.wait_for(timeout=30_000)
    assert "statistics.html" in first.get_attribute("href")
    assert [address for address in asked if not address.startswith("file:")] == []
    context.close()


WRAPPED = "[...document.querySelectorAll('.md-typeset__scrollwrap')]"


@pytest.mark.parametrize(("name", "least"), [("results/benchmarks.html", 50), ("results/kernels.html", 5)])
def test_tables_of_numbers_fit_a_desk(browser, site, name, least):
    context = browser.new_context(viewport=DESK)
    page = context.new_page()
    page.goto((site / name).as_uri())
    too_wide = page.evaluate(f"{WRAPPED}.map((e) => e.scrollWidth > e.clientWidth)")
    assert len(too_wide) >= least
    assert not any(too_wide)
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_a_phone(browser, site, scheme):
    context = browser.new_context(viewport=PHONE, color_scheme=scheme)
    page = context.new_page()
    some = [site / name for name in ("layers/augmented-conv.html", "statistics.html", "results/kernels.html")]
    pages = sorted(path for path in site.rglob("*.html") if path.name != "404.html")  # its styles need a server
    paths = pages if scheme == "light" else some
    assert {*some} <= {*paths}
    for path in paths:
        page.goto(path.as_uri())
        root = "document.documentElement"
        assert page.evaluate(f"{root}.scrollWidth - {root}.clientWidth") == 0, path
        brightness = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert (sum(brightness[:3]) > 600) == (scheme == "light")
    context.close()
