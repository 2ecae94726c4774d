"""A self-contained HTML page: headings, paragraphs, tables and figures, with no request to anywhere.

Reads well in light and dark and on a phone.
"""

import html
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from attnconv.report.svg import svg_element, svg_file
from attnconv.shown import shown_html, shown_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --soft: #5b6470; --back: #ffffff; --line: #dfe3e8; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e8eb; --soft: #a2abb6; --back: #16181c; --line: #343a42; }
}
body { font: 16px/1.55 system-ui, sans-serif; color: var(--text); background: var(--back);
       max-width: 60rem; margin: 0 auto; padding: 2rem 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; } li { margin: .3rem 0; }
pre { border: 1px solid var(--line); border-radius: 6px; padding: .6rem .8rem; font-size: .85rem;
      white-space: pre-wrap; }
summary { cursor: pointer; }
.scroll { overflow-x: auto; }
.beside { display: grid; gap: 0 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .9rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } th:first-child, td:first-child { text-align: left; }
td.long { white-space: normal; min-width: 20rem; text-align: left; }
tr.marked td { font-weight: 600; background: color-mix(in srgb, #e8590c 16%, transparent); }
figure { margin: 1rem 0; background: #ffffff; border: 1px solid var(--line); border-radius: 6px; padding: .5rem; }
figure svg { width: 100%; height: auto; display: block; }
figcaption { color: #5b6470; font-size: .88rem; padding: .3rem .4rem 0; }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem; }
"""

MOST = 60  # characters of a cell; a longer one is set in several lines
LONG = ' class="long"'


def page(title: str, blocks: Sequence[str], *, footer: str) -> str:
    """The whole document; ``blocks`` are what the functions below return."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{shown_html(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{shown_html(title)}</h1>\n" + "\n".join(blocks) + f"\n<footer>{shown_html(footer)}</footer>\n"
        "</body>\n</html>\n"
    )


def heading(text: str) -> str:
    return f"<h2>{shown_html(text)}</h2>"


def paragraph(text: str) -> str:
    return f"<p>{_prose(text)}</p>"


def subheading(text: str) -> str:
    return f"<h3>{shown_html(text)}</h3>"


def listing(items: Sequence[str]) -> str:
    return "<ul>\n" + "\n".join(f"<li>{_prose(item)}</li>" for item in items) + "\n</ul>"


def preformatted(text: str) -> str:
    """A command, or a file, as it is typed."""
    return f"<pre><code>{html.escape(shown_lines(text))}</code></pre>"


def folded(title: str, text: str) -> str:
    """Preformatted text that a click on ``title`` shows."""
    return f"<details><summary>{shown_html(title)}</summary>{preformatted(text)}</details>"


def table(header: Sequence[str], rows: Sequence[Sequence[object]], *, marked: Collection[int] = ()) -> str:
    """A table whose first column names the rows; it scrolls by itself where it is wider than the page.

    ``marked``: the rows, counted from 0, that stand out.
    """
    head = "".join(f"<th>{shown_html(cell)}</th>" for cell in header)
    body = "\n".join(
        ('<tr class="marked">' if i in marked else "<tr>") + "".join(map(_cell, row)) + "</tr>"
        for i, row in enumerate(rows)
    )
    return (
        f'<div class="scroll" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n'
        "</table></div>"
    )


def picture(figure: "Figure", *, caption: str) -> str:
    """A matplotlib figure as inline SVG; ``caption`` is also what a screen reader says."""
    return drawing(svg_file(figure), caption=caption)


def drawing(svg: str, *, caption: str) -> str:
    """The same of an SVG file's text."""
    svg = svg_element(svg).replace("<svg", f'<svg role="img" aria-label="{_prose(caption)}"', 1)
    return f"<figure>{svg}<figcaption>{_prose(caption)}</figcaption></figure>"


def beside(pictures: Sequence[str]) -> str:
    """Several pictures in a row, or one below the other where the page is narrow."""
    return f'<div class="beside">{"".join(pictures)}</div>'


def _prose(text: str) -> str:
    """Sentences, which may be set in several lines."""
    return shown_html(" ".join(text.split()))


def _cell(value: object) -> str:
    text = str(value)
    return f"<td{LONG if len(text) > MOST else ''}>{shown_html(text)}</td>"
