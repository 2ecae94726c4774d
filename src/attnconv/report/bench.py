"""Records of benchmarks as tables, and as a Markdown page with drawings of sweeps over map sizes.

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

HEADER = ("candidate", "median ms", "min - max", "ratio", "ratios of rounds", "peak MB", "GFLOP/s", "of peak")
FLOOR = ("floor ms", "/ floor")  # more columns, where a floor is known


def markdown(records: Sequence[Record]) -> tuple[str, dict[str, "Figure"]]:
    """Return the page, and its drawings by file name."""
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
        commands=list(commands),
    )
    return text, {file_name(title): sweep_figure(title, rows) for title, rows in found.items()}


@dataclass(frozen=True)
class Table:
    """One comparison: title, machine, a note on its floor, rows, and the candidates that did not run."""

    title: str
    machine: str
    note: str
    header: tuple[str, ...]
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
    first, ran = comparison[0], [record for record in comparison if record["seconds"]]
    baseline = next((r for r in comparison if r["contestant"] == first["baseline"]), first)
    base = baseline["contestant"]
    peak, exps = fastest_rates(first, records)
    floors = {record["contestant"]: floor_seconds(record, peak, exps) for record in ran}
    rows, header = [_row(record, baseline, peak) for record in ran], HEADER
    if any(floors.values()):
        rows = [(*row, *_floor_cells(r, floors[r["contestant"]])) for row, r in zip(rows, ran, strict=True)]
        header = (*HEADER, *FLOOR)
    absent = [
        (record["contestant"], record["why_not"] or "no reason given") for record in comparison if not record["seconds"]
    ]
    parts = [f"{first['case']} ({shape(first)})", first["pass"], first["dtype"]]
    if of_baseline := floors.get(base):
        parts.append(f"floor {digits(statistics.median(of_baseline) * 1e3)} ms")
    title = ", ".join(parts) + f"; ratios to {base}"
    return Table(title, machine_line(first), _note(ran), header, tuple(rows), tuple(absent))


def _row(record: Record, baseline: Record, peak: float) -> tuple[str, ...]:
    seconds = record["seconds"]
    median = statistics.median(seconds)
    ratio, spread = ratios(seconds, baseline["seconds"]) if baseline["seconds"] else (None, None)
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
    )


def _floor_cells(record: Record, floors: Sequence[float]) -> tuple[str, str]:
    """Return the median of the floors, and the median of a round's time over its floor."""
    if not floors:
        return "-", "-"
    over = statistics.median(s / floor for s, floor in zip(record["seconds"], floors, strict=True))
    return digits(statistics.median(floors) * 1e3), f"{over:.2f}"


def _note(ran: Sequence[Record]) -> str:
    """Return the rates behind the floors, or the reason why there are none; "" if neither was recorded."""
    if reason := next((r["floor_why_not"] for r in ran if r.get("floor_why_not")), None):
        return f"no floor, which impl='native' measures: {reason}"
    pairs = [pair for record in ran for pair in record.get("rates") or ()]
    if not pairs:
        return ""
    macs, exps = (digits(statistics.median(column) / 1e9) for column in zip(*pairs, strict=True))
    return f"a thread: {macs} G multiply-adds/s, {exps} G exponentials/s ({ran[0]['instruction_set']}), median"


def digits(number: float) -> str:
    """Return three significant digits, or all that stand before the point."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def ratios(seconds: Sequence[float], base: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Return the median, smallest and largest ratio of a round; of the medians alone if the rounds do not pair."""
    if len(seconds) != len(base):
        return statistics.median(seconds) / statistics.median(base), None
    rounds = [s / b for s, b in zip(seconds, base, strict=True)]
    return statistics.median(rounds), (min(rounds), max(rounds))


def fastest_rates(record: Record, records: Sequence[Record]) -> tuple[float, float]:
    """Return the best FLOP/s of products in the record's dtype, and exponentials/s, of its machine."""
    same = [r for r in records if machine_line(r) == machine_line(record)]
    peak = max(r["matmul_flops_per_s"] for r in same if r["dtype"] == record["dtype"])
    return peak, max(r["exps_per_s"] for r in same)


def floor_seconds(record: Record, peak: float, exps_per_s: float) -> list[float]:
    """Return the time of the products and exponentials alone, in each round; empty if it is unknown.

    On a CPU at the rates of a core measured around the round. A record without floors, as on a GPU, has them at the
    rates given.
    """
    if (floors := record.get("floors")) is not None:
        return floors
    if record["flops"] is None or record["exps"] is None:
        return []
    return [record["flops"] / peak + record["exps"] / exps_per_s] * len(record["seconds"])


def machine_line(record: Record) -> str:
    """Return the machine in words: records of different machines are never mixed."""
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
