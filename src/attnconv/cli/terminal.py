"""Output of commands: lines, tables and JSON. Loads the standard library alone, so that doctor can print without rich.

A table fits the terminal's width; in a pipe that is COLUMNS, or 80. Names never fold. Where a table is too wide, its
columns go from the right, so each table has its columns in the order of their importance.
"""

import json
import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import Any

from attnconv.shown import shown

GAP = "  "
LEAST = 24  # columns of the terminal that a text to fold needs at least
NUMBER = re.compile(r"[-+±~<>]?\.?\d.*")  # a cell of a column that is aligned right
NO_NUMBER = ("", "-", "baseline")  # cells that such a column may have, too


def say(text: str) -> None:
    """Print a sentence: folded between words in a terminal, on one line in a pipe, whatever the names in it hold."""
    if sys.stdout.isatty():
        note(text)
    else:
        print(shown(text))


def note(text: str) -> None:
    """Print a sentence below a table, folded as wide as the table may be."""
    print("\n".join(folded("", shown(text), terminal_width())))


def tell(text: str) -> None:
    """Print a line on stderr, apart from the command's answer."""
    print(f"attnconv: {shown(text)}", file=sys.stderr, flush=True)


def terminal_width() -> int:
    """Return the columns of the terminal: COLUMNS if it is set, 80 in a pipe."""
    return shutil.get_terminal_size((80, 24)).columns


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]], *, fold: bool = False) -> None:
    """Print a table, text left and numbers right.

    Args:
        header: names of the columns, the most important first.
        rows: cells.
        fold: the last column is text, which is folded into the space that is left, and stays when others go.
    """
    print("\n".join(table_lines(header, rows, terminal_width(), fold=fold)))


def table_lines(
    header: Sequence[str], rows: Sequence[Sequence[object]], width: int, *, fold: bool = False
) -> list[str]:
    """Return the lines of a table of at most ``width`` columns, or as wide as its first column if that is wider."""
    columns = [[shown(cell) for cell in column] for column in zip(header, *rows, strict=True)]
    columns = [column for i, column in enumerate(columns) if i == 0 or any(column[1:]) or not rows]
    text = columns.pop() if fold and len(columns) > 1 else None
    least = 0 if text is None else min(max(map(cells, text)), LEAST) + len(GAP)
    dropped: list[str] = []
    while len(columns) > 1 and _width(columns) + least > width:
        dropped.insert(0, columns.pop()[0])
    lines = [""] * (1 + len(rows))
    for i, column in enumerate(columns):
        right = i > 0 and all(NUMBER.match(cell) for cell in column[1:] if cell not in NO_NUMBER)
        widest = max(map(cells, column))
        for row, cell in enumerate(column):
            pad = " " * (widest - cells(cell))
            lines[row] += (GAP if i else "") + (pad + cell if right else cell + pad)
    if text is not None:
        pairs = zip(lines, text, strict=True)
        lines = ["\n".join(folded(line + GAP, cell, max(width, cells(line + GAP) + LEAST))) for line, cell in pairs]
    lines = [line.rstrip() for line in "\n".join(lines).split("\n")]
    lines.insert(1, "-" * max(map(cells, lines)))
    return lines + (
        folded("", f"({width} columns leave no room for {', '.join(map(repr, dropped))})", width) if dropped else []
    )


def folded(start: str, text: str, width: int) -> list[str]:
    """Return ``start`` and behind it ``text``, in lines of ``width`` columns that are broken between words alone."""
    indent = " " * cells(start)
    wrapped = textwrap.wrap(text, width - len(indent), break_long_words=False, break_on_hyphens=False) or [""]
    return [f"{indent if i else start}{line}" for i, line in enumerate(wrapped)]


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(max(map(cells, column)) for column in columns) + len(GAP) * (len(columns) - 1)


def cells(text: str) -> int:
    """Return the columns of a terminal that ``text`` takes: 2 for a wide letter, 0 for a combining one."""
    return sum(
        0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text
    )


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def counted(number: int, thing: str) -> str:
    """Return "1 image", "2 images"."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def amount(number: float, unit: str = "") -> str:
    """Return ``number`` in three digits and a prefix: 1_234_567 is 1.23M."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g} {prefix}{unit}" if unit else f"{number / size:.3g}{prefix}"
    return f"{number:.3g} {unit}".strip()


def duration(seconds: float) -> str:
    """Return ``seconds`` in the two largest units: 12 s, 5 min, 1 h 20 min, 2 d 3 h."""
    minutes = int(seconds // 60)
    if minutes < 1:
        return f"{max(seconds, 0):.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // (24 * 60)} d {minutes // 60 % 24} h"
