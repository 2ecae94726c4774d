"""Pages from templates: self-contained, well formed, and no text becomes markup; metrics read back."""

import html
import re
from html.parser import HTMLParser

import pytest

from attnconv.checks import InputError
from attnconv.report.page import TEMPLATES, _environment, read_metrics, render, short_commit, svg_file
from attnconv.report.plots import Curves, curves_figure

NASTY = '<img src=x onerror=alert(1)> a|b & "c" `d` [e](http://f) *g* _h_ $i$ ~j~'
CURVES = [Curves("plain", [{1: 10.0, 2: 50.0}], [None])]


class Tags(HTMLParser):
    """Opened and closed tags, and every address that a browser would fetch."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.seen = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def filled(kind, form, **values):
    """Fill in a template that is written here."""
    return _environment(kind).from_string(form).render(values)


def demo(text=NASTY):
    """The page of `attnconv demo`, with ``text`` wherever it takes one."""
    row = {"title": text, "heads": text, "panels": [{"title": text, "picture": "data:,", "small": True}]}
    return render(
        "demo.html", title=text, verdict=text, header=["network", text], rows=[["convnet3", 99.5], [text, 1]],
        curves=svg_file(curves_figure(CURVES, arms=["plain"], label="top-1 (%)")), glyphs=[row], photo=row,
        caption=text, footer=text, compared=text, uniform=text, cells=32,
    )  # fmt: skip


def test_the_page_is_well_formed_asks_for_nothing_and_holds_text_as_text():
    text = demo()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert {"h1", "h2", "table", "svg", "figcaption", "footer"} <= tags.seen
    assert not {"script", "a"} & tags.seen
    assert tags.addresses
    assert all(address.startswith(("#", "data:")) for address in tags.addresses)  # inside the drawings, and pictures
    assert not re.search(r"url\((?!#)|@import", text)
    body = re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)
    # Title twice, verdict, cells, labels, two rows of 4, two sentences about the glyphs, caption, footer.
    assert body.count(html.escape(NASTY)) == 19


def test_the_page_serves_both_colour_schemes_and_phones():
    text = demo()
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def test_ids_of_several_drawings_differ():
    ids = re.findall(r'\bid="([^"]+)"', demo())
    assert len(ids) > 20
    assert len(set(ids)) == len(ids)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', demo()))
    assert used
    assert used <= set(ids)


def test_long_cells_are_folded_and_marked_rows_stand_out():
    form = '{% from "parts.html" import table %}{{ table(["arm", "why"], rows, [0]) }}'
    text = filled("html", form, rows=[["a", "x" * 27], ["b", "y" * 26]])
    assert re.findall(r'<td data-label="why" class="long">(.)', text) == ["x"]
    assert re.findall(r'<tr class="marked"><td[^>]*>(.)', text) == ["a"]


def test_a_markdown_table_and_items_by_hand():
    form = '{% from "parts.md" import items, table %}{{ table(["arm", "top-1"], rows, [1]) }}\n{{ items(["one"]) }}'
    assert filled("md", form, rows=[["plain", "-"], ["aa_b|", "+2"]]) == (
        "| arm | top-1 |\n| --- | ---: |\n| plain | - |\n| **aa_b\\|** | +2 |\n\n- one\n"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a_b and _c_", r"a_b and \_c\_"),
        ("<b> & [x](y)", r"\<b\> \& \[x\](y)"),
        ("two\nlines", "two lines"),
        ("- not an item", r"\- not an item"),
        ("1. nor this", r"1\. nor this"),
        ("## nor a heading", r"#\# nor a heading"),
        ("a|b $c$ `d` *e* ~f~ \\", r"a\|b \$c\$ \`d\` \*e\* \~f\~ " + "\\\\"),
        ("-0.5 to +1.5", "-0.5 to +1.5"),
    ],
)
def test_markdown_escapes(text, shown):
    assert filled("md", "{{ text|line }}", text=text) == shown


@pytest.mark.parametrize("kind", ["html", "md"])
@pytest.mark.parametrize("form", ["{{ text }}", "{{ text|line }}", "{{ text|code }}", "{{ text|span }}"])
def test_what_is_not_printable_is_escaped(kind, form):
    found = filled(kind, form, text="a\x1b[2J\u202e\udcff")
    found.encode()
    assert all(line.isprintable() for line in found.split("\n"))
    assert re.search(r"a\\+x1b\\?\[2J\\+u202e\\+udcff", found)


def test_code_keeps_its_lines_and_a_fence_is_longer_than_what_it_holds():
    assert filled("md", "{{ text|code }}", text="a ```` b\nc") == "`````\na ```` b\nc\n`````"
    assert filled("html", "{{ text|code }}", text="a <b>\nc") == "a &lt;b&gt;\nc"


@pytest.mark.parametrize("template", sorted(path.name for path in TEMPLATES.iterdir()))
def test_no_template_lets_text_through_unescaped(template):
    assert len(list(TEMPLATES.iterdir())) >= 10
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    assert re.findall(r"([^\s|]+)\|\s*safe", text) == (['"**"'] if template == "parts.md" else [])
    assert not re.search(r"autoescape|https?://", text)


def test_metrics_come_back_as_numbers(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,val_top1\n1,10.5\n2,50\n")
    assert read_metrics(tmp_path) == [{"epoch": 1.0, "val_top1": 10.5}, {"epoch": 2.0, "val_top1": 50.0}]


@pytest.mark.parametrize("text", [None, "epoch\nx\n"])
def test_metrics_that_cannot_be_read_are_named(tmp_path, text):
    if text is not None:
        (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(InputError, match=r"cannot read .*metrics.csv: "):
        read_metrics(tmp_path)


def test_commits_are_shortened_each():
    assert short_commit("0123456789abcdef + fedcba9876543210-dirty") == "012345678 + fedcba987-dirty"
