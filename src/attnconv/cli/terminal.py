"""Output of commands: lines, tables and JSON."""

import json
from collections.abc import Sequence
from typing import Any

from attnconv.shown import shown


def say(text: str) -> None:
    """Print one line, whatever the names in it hold."""
    print(shown(text))


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]], *, right: bool = True) -> None:
    """Print a table, its first column left, the others right if ``right``; never cut to the width of a pipe."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(Text(shown(name)), justify="right" if i and right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))  # not markup: a name may hold brackets
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 10_000  # a pipe has no width to fold at
    with console.capture() as captured:  # rich would leave the process itself if the reader of a pipe has gone
        console.print(table)
    print(captured.get(), end="")


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


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
