"""Records of benchmarks as tables: a contest each, medians, spread, and ratios to the contest's baseline.

A ratio is that of two medians. Its spread comes from the rounds: contestants take turns, so that the times of one round
belong together.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]

HEADER = (
    "contestant",
    "median ms",
    "min - max",
    "ratio",
    "ratios of rounds",
    "peak MB",
    "GFLOP/s",
    "of peak",
    "floors",
)


@dataclass(frozen=True)
class Table:
    """One contest: a line on what was measured, the rows under HEADER, and who did not run."""

    title: str
    machine: str
    rows: tuple[tuple[str, ...], ...]
    absent: tuple[tuple[str, str], ...]  # name, reason


def contests(records: Sequence[Record]) -> list[list[Record]]:
    """The records of each contest, of repeated ones the last, in the order in which they were first held."""
    groups: dict[tuple[Any, ...], dict[str, list[Record]]] = {}
    for record in records:
        key = (machine_line(record), record["dtype"], record["study"], record["case"], record["pass"], shape(record))
        groups.setdefault(key, {}).setdefault(record["session"], []).append(record)
    return [max(sessions.values(), key=lambda found: found[0]["date"]) for sessions in groups.values()]


def tables(records: Sequence[Record]) -> list[Table]:
    """A table a contest."""
    return [_table(contest, records) for contest in contests(records)]


def _table(contest: Sequence[Record], records: Sequence[Record]) -> Table:
    first = contest[0]
    baseline = next((r for r in contest if r["contestant"] == first["baseline"] and r["seconds"]), None)
    peak, exps = fastest_rates(first, records)
    floor = floor_seconds(baseline or first, peak, exps)
    rows = [_row(record, baseline, peak, floor_seconds(record, peak, exps)) for record in contest if record["seconds"]]
    absent = [
        (record["contestant"], record["why_not"] or "no reason given") for record in contest if not record["seconds"]
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
    """Three significant digits, or all that stand before the point."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def ratios(seconds: Sequence[float], base: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """The ratio of the medians, and the smallest and largest ratio of one round; None if the rounds do not pair."""
    rounds = [s / b for s, b in zip(seconds, base, strict=True)] if len(seconds) == len(base) else []
    spread = (min(rounds), max(rounds)) if rounds else None
    return statistics.median(seconds) / statistics.median(base), spread


def fastest_rates(record: Record, records: Sequence[Record]) -> tuple[float, float]:
    """FLOP/s of matrix products in the record's dtype and exponentials/s: the best that its machine has shown."""
    same = [r for r in records if machine_line(r) == machine_line(record)]
    peak = max(r["matmul_flops_per_s"] for r in same if r["dtype"] == record["dtype"])
    return peak, max(r["exps_per_s"] for r in same)


def floor_seconds(record: Record, peak: float, exps_per_s: float) -> float | None:
    """The time of the products and exponentials alone, at those rates."""
    if record["flops"] is None or record["exps"] is None:
        return None
    return record["flops"] / peak + record["exps"] / exps_per_s


def machine_line(record: Record) -> str:
    """The machine in words: records of different ones are never mixed."""
    machine = record["machine"]
    triton = f", triton {machine['triton']}" if machine["triton"] and machine["device"] == "cuda" else ""
    threads = f", {machine['threads']} threads" if machine["device"] == "cpu" else ""
    return f"{machine['name']}{threads}, torch {machine['torch']}{triton}"


def shape(record: Record) -> str:
    return ", ".join(f"{name} {value}" for name, value in record["shape"].items())
