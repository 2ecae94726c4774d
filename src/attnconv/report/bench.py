"""Records of benchmarks: as tables, and as a Markdown page of them with drawings of sweeps over map sizes.

A table is one comparison: medians, spread, and ratios to its baseline. A ratio is that of two medians. Its spread
comes from the rounds: candidates take turns, so that the times of one round belong together.
"""

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnconv.report.page import render, short_commit
from attnconv.report.plots import sweep_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = Mapping[str, Any]

HEADER = (
    "candidate",
    "median ms",
    "min - max",
    "ratio",
    "ratios of rounds",
    "peak MB",
    "GFLOP/s",
    "of peak",
    "floors",
)


def markdown(records: Sequence[Record]) -> tuple[str, dict[str, "Figure"]]:
    """Return the page, and the drawings that it shows, by file name."""
    found = sweeps(records)
    machines: dict[str, list[Table]] = {}
    for table in tables(records):
        machines.setdefault(table.machine, []).append(table)
    commands = dict.fromkeys(
        (r["command"], f"{r['date'][:10]}, commit {short_commit(r['commit'] or 'none')}") for r in records
    )
    text = render(
        "bench.md",
        title="Benchmarks",
        drawings={file_name(title): title for title in found},
        machines=machines,
        header=HEADER,
        commands=list(commands),
    )
    return text, {file_name(title): sweep_figure(title, rows) for title, rows in found.items()}


@dataclass(frozen=True)
class Table:
    """One comparison: a line on what was measured, the rows under HEADER, and who did not run."""

    title: str
    machine: str
    rows: tuple[tuple[str, ...], ...]
    absent: tuple[tuple[str, str], ...]  # name, reason


def comparisons(records: Sequence[Record]) -> list[list[Record]]:
    """Return the records of each comparison, of repeated ones the last, in the order in which they were first made."""
    groups: dict[tuple[Any, ...], dict[str, list[Record]]] = {}
    for record in records:
        key = (machine_line(record), record["dtype"], record["study"], record["case"], record["pass"], shape(record))
        groups.setdefault(key, {}).setdefault(record["session"], []).append(record)
    return [max(sessions.values(), key=lambda found: found[0]["date"]) for sessions in groups.values()]


def tables(records: Sequence[Record]) -> list[Table]:
    """Return a table for each comparison."""
    return [_table(comparison, records) for comparison in comparisons(records)]


def _table(comparison: Sequence[Record], records: Sequence[Record]) -> Table:
    first = comparison[0]
    baseline = next((r for r in comparison if r["contestant"] == first["baseline"] and r["seconds"]), None)
    peak, exps = fastest_rates(first, records)
    floor = floor_seconds(baseline or first, peak, exps)
    rows = [
        _row(record, baseline, peak, floor_seconds(record, peak, exps)) for record in comparison if record["seconds"]
    ]
    absent = [
        (record["contestant"], record["why_not"] or "no reason given") for record in comparison if not record["seconds"]
    ]
    parts = [f"{first['case']} ({shape(first)})", first["pass"], first["dtype"]]
    if floor is not None:
        parts.append(f"floor {digits(floor * 1e3)} ms")
    return Table(", ".join(parts) + f"; ratios to {first['baseline']}", machine_line(first), tuple(rows), tuple(absent))


def _row(record: Record, baseline: Record | None, peak: float, floor: float | None) -> tuple[str, ...]:
    seconds = record["seconds"]
    median = statistics.median(seconds)
    ratio, spread = ratios(seconds, baseline["seconds"]) if baseline else (None, None)
    flops = record["flops"]
    return (
        record["contestant"],
        digits(median * 1e3),
        f"{digits(min(seconds) * 1e3)} - {digits(max(seconds) * 1e3)}",
        "-" if ratio is None else f"{ratio:.2f}",
        "-" if spread is None else f"{spread[0]:.2f} - {spread[1]:.2f}",
        "-" if record["peak_bytes"] is None else f"{record['peak_bytes'] / 1e6:.1f}",
        "-" if flops is None else digits(flops / median / 1e9),
        "-" if flops is None else f"{100 * flops / median / peak:.1f} %",
        "-" if floor is None else f"{median / floor:.1f}",
    )


def digits(number: float) -> str:
    """Return three significant digits, or all that stand before the point."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def ratios(seconds: Sequence[float], base: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Return the ratio of the medians, and the smallest and largest of one round; None if the rounds do not pair."""
    rounds = [s / b for s, b in zip(seconds, base, strict=True)] if len(seconds) == len(base) else []
    spread = (min(rounds), max(rounds)) if rounds else None
    return statistics.median(seconds) / statistics.median(base), spread


def fastest_rates(record: Record, records: Sequence[Record]) -> tuple[float, float]:
    """Return FLOP/s of products in the record's dtype, and exponentials/s: the best that its machine has shown."""
    same = [r for r in records if machine_line(r) == machine_line(record)]
    peak = max(r["matmul_flops_per_s"] for r in same if r["dtype"] == record["dtype"])
    return peak, max(r["exps_per_s"] for r in same)


def floor_seconds(record: Record, peak: float, exps_per_s: float) -> float | None:
    """Return the time of the products and exponentials alone, at those rates."""
    if record["flops"] is None or record["exps"] is None:
        return None
    return record["flops"] / peak + record["exps"] / exps_per_s


def machine_line(record: Record) -> str:
    """Return the machine in words: records of different ones are never mixed."""
    machine = record["machine"]
    triton = f", triton {machine['triton']}" if machine["triton"] and machine["device"] == "cuda" else ""
    threads = f", {machine['threads']} threads" if machine["device"] == "cpu" else ""
    return f"{machine['name']}{threads}, torch {machine['torch']}{triton}"


def shape(record: Record) -> str:
    return ", ".join(f"{name} {value}" for name, value in record["shape"].items())


def sweeps(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return a title for each sweep of at least two sizes, and its records that have times."""
    found: dict[str, list[Record]] = {}
    for comparison in comparisons(records):
        for record in comparison:
            if record["size"] is not None and record["seconds"]:
                title = f"{record['study']}, {record['pass']}, {record['dtype']}, {machine_line(record)}"
                found.setdefault(title.replace("_", " "), []).append(record)
    return {title: rows for title, rows in found.items() if len({row["size"] for row in rows}) > 1}


def file_name(title: str) -> str:
    """Return a title as the name of its drawing."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") + ".svg"
