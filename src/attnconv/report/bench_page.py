"""Records of benchmarks as a Markdown file with its drawings beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnconv.report.bench_plot import file_name, sweep_figure, sweeps
from attnconv.report.bench_table import HEADER, Table, tables
from attnconv.report.records import short_commit
from attnconv.report.svg import svg_file
from attnconv.shown import code_span, shown_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ABOUT = """Medians of interleaved rounds; ratios are time over the baseline's time, so below 1 where a contestant is
faster. "of peak" is the FLOPs of the mathematics over the time, as a part of the fastest matrix product measured on
the machine; "floors" counts how many times as long as its products and exponentials alone a call takes. Of a contest
that was held several times, the last is shown."""


def markdown(records: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, "Figure"]]:
    """The text, and the drawings that it shows, by file name."""
    figures = {file_name(title): sweep_figure(title, rows) for title, rows in sweeps(records).items()}
    titles = {file_name(title): title for title in sweeps(records)}
    found = tables(records)
    parts = ["# Benchmarks", ABOUT]
    parts += [f"![{titles[name]}]({name})" for name in figures]
    for machine in dict.fromkeys(table.machine for table in found):
        parts.append(f"## {machine}")
        parts += [_table(table) for table in found if table.machine == machine]
    commands = dict.fromkeys(
        f"{code_span(r['command'])} ({r['date'][:10]}, commit {short_commit(r['commit'] or 'none')})" for r in records
    )
    parts.append("## Commands\n\n" + "\n".join(f"- {command}" for command in commands))
    return shown_lines("\n\n".join(parts)) + "\n", figures


def save_figure(figure: "Figure", path: Path) -> None:
    """As SVG, the same bytes for the same records."""
    path.write_text(svg_file(figure), encoding="utf-8")


def _table(table: Table) -> str:
    lines = [f"### {table.title}", ""]
    if table.rows:
        lines += [_row(HEADER), _row(("---", *["---:"] * (len(HEADER) - 1))), *map(_row, table.rows), ""]
    lines += [f"- {name}: {reason}" for name, reason in table.absent]
    return "\n".join(lines).rstrip()


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
