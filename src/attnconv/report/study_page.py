"""The page of a study, as HTML and as its Markdown twin, from one list of parts.

Knows nothing of studies: it takes text, tables as header and rows, and figures. Whatever text a part holds is shown
as that text; none of it can become markup.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from attnconv.report import page
from attnconv.shown import fenced, shown_markdown


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2  # or 3


@dataclass(frozen=True)
class Items:
    """Short texts, one below the other."""

    items: Sequence[str]


@dataclass(frozen=True)
class TableData:
    """The first column names the rows; ``marked`` are the numbers of those that stand out, from 0."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: Sequence[int] = ()


@dataclass(frozen=True)
class Drawing:
    """``svg`` is a file's text, ``name`` that of the file beside the Markdown, without ending."""

    svg: str
    name: str
    caption: str


@dataclass(frozen=True)
class Drawings:
    """Side by side."""

    drawings: Sequence[Drawing]


@dataclass(frozen=True)
class Typed:
    """A command or a file as it is; with a ``title`` it is folded away in HTML."""

    text: str
    title: str = ""


Part = str | Heading | Items | TableData | Drawings | Typed  # text alone is a paragraph


def html(title: str, parts: Sequence[Part], *, footer: str) -> str:
    return page.page(title, [_html(part) for part in parts], footer=footer)


def markdown(title: str, parts: Sequence[Part], *, footer: str) -> tuple[str, dict[str, str]]:
    """The text, and the SVG files that it shows, by name."""
    texts = [f"# {_escaped(title)}", *map(_markdown, parts), _escaped(footer)]
    drawings = [drawing for part in parts if isinstance(part, Drawings) for drawing in part.drawings]
    return "\n\n".join(texts) + "\n", {f"{drawing.name}.svg": drawing.svg for drawing in drawings}


def _html(part: Part) -> str:
    match part:
        case str():
            return page.paragraph(part)
        case Heading():
            return page.heading(part.text) if part.level == 2 else page.subheading(part.text)
        case Items():
            return page.listing(part.items)
        case TableData():
            return page.table(part.header, part.rows, marked=part.marked)
        case Drawings():
            return page.beside([page.drawing(d.svg, caption=d.caption) for d in part.drawings])
        case Typed():
            return page.folded(part.title, part.text) if part.title else page.preformatted(part.text)


def _markdown(part: Part) -> str:
    match part:
        case str():
            return _escaped(part)
        case Heading():
            return f"{'#' * part.level} {_escaped(part.text)}"
        case Items():
            return "\n".join(f"- {_escaped(item)}" for item in part.items)
        case TableData():
            return _markdown_table(part)
        case Drawings():
            return "\n\n".join(f"![{_escaped(d.caption)}]({d.name}.svg)" for d in part.drawings)
        case Typed():
            title = f"{_escaped(part.title)}:\n\n" if part.title else ""
            return title + fenced(part.text)


def _markdown_table(table: TableData) -> str:
    rows = [list(map(shown_markdown, row)) for row in table.rows]
    for first in (rows[i] for i in table.marked if rows[i][0]):
        first[0] = f"**{first[0]}**"
    lines = [[shown_markdown(cell) for cell in table.header], ["---", *["---:"] * (len(table.header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _escaped(text: str) -> str:
    """``text`` on a line of its own, on which nothing is markup."""
    text = shown_markdown(" ".join(text.split()))
    return re.sub(r"^([-+#]+|\d+[.)])(?= |$)", lambda found: f"{found[0][:-1]}\\{found[0][-1]}", text)
