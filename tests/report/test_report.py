"""Records read back, curves, and the self-contained page."""

import re
from html.parser import HTMLParser

import pytest

from attnconv.report.curves import curves_figure
from attnconv.report.page import heading, page, paragraph, picture, table
from attnconv.report.records import read_metrics

ROWS = [
    {"epoch": 1.0, "train_loss": 2.0, "val_loss": 2.5, "train_top1": 20.0, "val_top1": 10.0},
    {"epoch": 2.0, "train_loss": 1.0, "val_loss": 1.5, "train_top1": 60.0, "val_top1": 50.0},
]


def test_metrics_come_back_as_numbers(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,val_top1\n1,10.5\n2,50\n")
    assert read_metrics(tmp_path) == [{"epoch": 1.0, "val_top1": 10.5}, {"epoch": 2.0, "val_top1": 50.0}]


@pytest.mark.parametrize(
    ("name", "text", "read"),
    [
        ("metrics.csv", None, read_metrics),
        ("metrics.csv", "epoch\nx\n", read_metrics),
    ],
)
def test_records_that_cannot_be_read_are_named(tmp_path, name, text, read):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"cannot read .*{name}: "):
        read(tmp_path)


def test_curves_hold_the_numbers_of_every_run():
    figure = curves_figure({"plain": ROWS, "augmented": ROWS})
    loss, accuracy = figure.axes
    assert len(loss.lines) == len(accuracy.lines) == 4
    assert list(loss.lines[1].get_ydata()) == [2.5, 1.5]
    assert list(accuracy.lines[0].get_ydata()) == [20.0, 60.0]
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["plain", "augmented"]


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


def document():
    blocks = [
        heading("a <b>"),
        paragraph("1 < 2 & 3"),
        table(["network", "top-1"], [["convnet3", 99.5], ["<script>", 1]]),
        picture(curves_figure({"plain": ROWS}), caption='loss, "and" more'),
    ]
    return page("Title & more", blocks, footer="made <here>")


def test_the_page_is_well_formed_and_asks_for_nothing():
    tags = Tags()
    tags.feed(document())
    assert tags.open == []
    assert {"h1", "h2", "table", "svg", "figcaption", "footer"} <= tags.seen
    assert "script" not in tags.seen
    assert tags.addresses
    assert all(address.startswith("#") for address in tags.addresses)  # inside the drawing
    assert not re.search(r"url\((?!#)|@import", document())


def test_the_page_serves_both_colour_schemes_and_phones():
    text = document()
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
