"""How commands print: a table for people, or one JSON value for programs, on stdout."""

import json
from collections.abc import Sequence
from typing import Any


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]], *, right: bool = True) -> None:
    """The first column left, the others right, if they are numbers; never cut to the width of a pipe."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 10_000  # a pipe has no width to fold at
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i and right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    with console.capture() as captured:  # rich would leave the process itself if the reader of a pipe has gone
        console.print(table)
    print(captured.get(), end="")


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def amount(number: float, unit: str = "") -> str:
    """Three digits and a prefix: 1_234_567 is 1.23M."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g} {prefix}{unit}" if unit else f"{number / size:.3g}{prefix}"
    return f"{number:.3g} {unit}".strip()
