"""A study's blocks as HTML and as Markdown: both say the same, and no text becomes markup."""

import html as entities
import re

import pytest
from report.test_report import Tags

from attnconv.report.study_page import Drawing, Drawings, Heading, Items, TableData, Typed, html, markdown
from attnconv.report.study_plot import Curves, curves_figure
from attnconv.report.svg import svg_file

NASTY = '<img src=x onerror=alert(1)> a|b & "c" `d` [e](http://f) *g* _h_ $i$ ~j~'


def drawings():
    arms = ["plain", NASTY]
    curves = [Curves(arm, [{1: 50.0, 2: 60.0 + i}], [None]) for i, arm in enumerate(arms)]
    figures = [curves_figure(curves[: n + 1], arms=arms, label="top-1 (%)") for n in range(2)]
    return Drawings([Drawing(svg_file(figure), f"curves-{n}", NASTY) for n, figure in enumerate(figures)])


BLOCKS = [
    NASTY,
    Heading(NASTY),
    Heading(NASTY, 3),
    Items(["one", NASTY]),
    TableData(["arm", NASTY], [["plain", "1"], [NASTY, "2"]], marked=[1]),
    Typed(f"attnconv {NASTY} ```"),
    Typed(NASTY, title=NASTY),
]


def test_html_is_well_formed_and_holds_text_as_text():
    text = html(NASTY, [*BLOCKS, drawings()], footer=NASTY)
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert {"h2", "h3", "ul", "li", "table", "pre", "details", "svg", "figcaption"} <= tags.seen
    assert not {"img", "script", "a"} & tags.seen
    assert "<img" not in text
    assert all(address.startswith("#") for address in tags.addresses)
    body = re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)
    assert body.count(entities.escape(NASTY)) == 14  # two titles, two captions, the footer, nine in the blocks


def test_ids_of_several_drawings_differ():
    text = html("t", [drawings()], footer="")
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) > 20
    assert len(set(ids)) == len(ids)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    assert used
    assert used <= set(ids)


def test_the_same_blocks_make_the_same_bytes():
    assert html("t", [drawings()], footer="") == html("t", [drawings()], footer="")
    assert markdown("t", [drawings()], footer="") == markdown("t", [drawings()], footer="")


def test_markdown_by_hand():
    table = TableData(["arm", "top-1"], [["plain", "1"], ["aa_b", "+2"]], marked=[1])
    blocks = [
        "Text.",
        Heading("Runs"),
        Heading("More", 3),
        Items(["one"]),
        table,
        Typed("run"),
        Typed("a: 1", title="f"),
    ]
    text, files = markdown("A title", blocks, footer="End.")
    assert text == (
        "# A title\n\nText.\n\n## Runs\n\n### More\n\n- one\n\n"
        "| arm | top-1 |\n| --- | ---: |\n| plain | 1 |\n| **aa_b** | +2 |\n\n"
        "```\nrun\n```\n\nf:\n\n```\na: 1\n```\n\nEnd.\n"
    )
    assert files == {}


def test_markdown_names_the_files_of_its_drawings():
    text, files = markdown("t", [drawings()], footer="")
    assert list(files) == ["curves-0.svg", "curves-1.svg"]
    assert all(f"({name})" in text and "<svg" in svg for name, svg in files.items())


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
    assert markdown("t", [text], footer="")[0].split("\n\n")[1] == shown


def test_what_is_not_printable_is_escaped():
    name = "a\x1b[2J\u202e\udcff"
    blocks = [
        name,
        Heading(name),
        Items([name]),
        TableData([name], [[name]], marked=[0]),
        Typed(f"{name}\nb", title=name),
    ]
    for text in (html(name, blocks, footer=name), markdown(name, blocks, footer=name)[0]):
        text.encode()
        assert all(line.isprintable() for line in text.split("\n"))
        assert len(re.findall(r"a\\+x1b\\?\[2J\\+u202e\\+udcff", text)) == text.count("u202e") >= 9


def test_a_fence_is_longer_than_what_it_holds():
    text, _ = markdown("t", [Typed("a ```` b")], footer="")
    assert "`````\na ```` b\n`````" in text


def test_long_cells_are_folded_and_marked_rows_stand_out():
    text = html("t", [TableData(["arm", "why"], [["a", "x" * 61], ["b", "y" * 60]], marked=[0])], footer="")
    assert re.findall(r'<td class="long">(.)', text) == ["x"]
    assert re.findall(r'<tr class="marked"><td>(.)', text) == ["a"]
