"""The page of a study, as HTML and as its Markdown twin, from one list of blocks.

Knows nothing of studies: it takes text, tables as header and rows, and figures. Whatever text a block holds is shown
as that text; none of it can become markup.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from attnconv.report import page


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


Block = str | Heading | Items | TableData | Drawings | Typed  # text alone is a paragraph


def html(title: str, blocks: Sequence[Block], *, footer: str) -> str:
    return page.page(title, [_html(block) for block in blocks], footer=footer)


def markdown(title: str, blocks: Sequence[Block], *, footer: str) -> tuple[str, dict[str, str]]:
    """The text, and the SVG files that it shows, by name."""
    parts = [f"# {_escaped(title)}", *map(_markdown, blocks), _escaped(footer)]
    drawings = [drawing for block in blocks if isinstance(block, Drawings) for drawing in block.drawings]
    return "\n\n".join(parts) + "\n", {f"{drawing.name}.svg": drawing.svg for drawing in drawings}


def _html(block: Block) -> str:
    match block:
        case str():
            return page.paragraph(block)
        case Heading():
            return page.heading(block.text) if block.level == 2 else page.subheading(block.text)
        case Items():
            return page.listing(block.items)
        case TableData():
            return page.table(block.header, block.rows, marked=block.marked)
        case Drawings():
            return page.beside([page.drawing(d.svg, caption=d.caption) for d in block.drawings])
        case Typed():
            return page.folded(block.title, block.text) if block.title else page.preformatted(block.text)


def _markdown(block: Block) -> str:
    match block:
        case str():
            return _escaped(block)
        case Heading():
            return f"{'#' * block.level} {_escaped(block.text)}"
        case Items():
            return "\n".join(f"- {_escaped(item)}" for item in block.items)
        case TableData():
            return _markdown_table(block)
        case Drawings():
            return "\n\n".join(f"![{_escaped(d.caption)}]({d.name}.svg)" for d in block.drawings)
        case Typed():
            longest = max((len(run) for run in re.findall("`+", block.text)), default=0)
            fence = "`" * max(3, longest + 1)
            return "\n".join([*([f"{_escaped(block.title)}:", ""] if block.title else []), fence, block.text, fence])


def _markdown_table(table: TableData) -> str:
    rows = [
        [f"**{cell}**" if i in table.marked and n == 0 and cell else cell for n, cell in enumerate(map(_inline, row))]
        for i, row in enumerate(table.rows)
    ]
    lines = [[_inline(cell) for cell in table.header], ["---", *["---:"] * (len(table.header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _escaped(text: str) -> str:
    """``text`` on a line of its own, on which nothing is markup."""
    return re.sub(r"^([-+#]+|\d+[.)])(?= |$)", lambda found: f"{found[0][:-1]}\\{found[0][-1]}", _inline(text))


def _inline(text: str) -> str:
    """``text`` within a line; what has none of the characters of markup stays as it is."""
    text = re.sub(r"([\\`*<>\[\]|~$&])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
