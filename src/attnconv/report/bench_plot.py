"""Sweeps over map sizes, drawn on log-log axes: seconds and peak memory over the side of the map."""

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attnconv import checks
from attnconv.report.bench_table import contests, machine_line
from attnconv.shown import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#1f77b4", "#e8590c", "#2b8a3e", "#9c36b5", "#795548", "#e377c2", "#555555", "#bcbd22", "#17becf")
MARKERS = "osD^vP*Xh"


def sweeps(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """A title for each sweep of at least two sizes, and its records that have times."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for contest in contests(records):
        for record in contest:
            if record["size"] is not None and record["seconds"]:
                title = f"{record['study']}, {record['pass']}, {record['dtype']}, {machine_line(record)}"
                found.setdefault(title.replace("_", " "), []).append(record)
    return {title: rows for title, rows in found.items() if len({row["size"] for row in rows}) > 1}


def sweep_figure(title: str, records: Sequence[Mapping[str, Any]]) -> "Figure":
    """Milliseconds an image, median and spread, and megabytes an image, a line a contestant."""
    checks.require("matplotlib", extra="train")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    times, memory = figure.subplots(1, 2)
    names = list(dict.fromkeys(record["contestant"] for record in records))
    for i, name in enumerate(names):
        rows = sorted((r for r in records if r["contestant"] == name), key=lambda r: r["size"])
        sizes = [r["size"] for r in rows]
        style: dict[str, Any] = {
            "color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "markersize": 4, "linewidth": 1.2,
            "label": shown(name),
        }  # fmt: skip
        scaled = [[1e3 * s / r["shape"]["B"] for s in r["seconds"]] for r in rows]
        medians = [statistics.median(s) for s in scaled]
        below = [m - min(s) for m, s in zip(medians, scaled, strict=True)]
        above = [max(s) - m for m, s in zip(medians, scaled, strict=True)]
        times.errorbar(sizes, medians, yerr=[below, above], capsize=2, **style)
        held = [(r["size"], r["peak_bytes"] / r["shape"]["B"] / 1e6) for r in rows if r["peak_bytes"]]
        if held:
            memory.plot(*zip(*held, strict=True), **style)
    batches = {record["size"]: record["shape"]["B"] for record in records}
    all_sizes = sorted(batches)
    for axes, label in ((times, "ms an image"), (memory, "peak MB an image")):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(all_sizes, [f"{n} x {n}\nbatch {batches[n]}" for n in all_sizes])
        axes.minorticks_off()
        axes.set_xlabel("map")
        axes.set_ylabel(label)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(shown(title), fontsize=10)
    figure.legend(*times.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    return figure


def file_name(title: str) -> str:
    """A title as the name of its drawing."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") + ".svg"
