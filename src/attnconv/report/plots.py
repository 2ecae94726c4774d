"""Drawings: of single runs, of lr-find, of a study's arms, and of benchmarks over map sizes.

Colours: six that differ by at least 43 in CIELAB for people with any one kind of colour-blindness too (simulated after
Machado et al. 2009), each with a contrast of at least 3 to 1 on white; lines and markers differ as well. `svg_file`
shows each in its counterpart of DARK where the reader's screen is dark; those differ by at least 36.
"""

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnconv import checks
from attnconv.shown import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#3e07fd", "#e96710", "#0da783", "#591004", "#b159c6", "#240f3a")
DARK = ("#7744ef", "#fe6b16", "#248355", "#f7dfb2", "#a64caf", "#b0e0fb")
SOFT = "#5b6470"
LINES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX*"
PALE = "#adb5bd"

SIZE = (4.4, 3.1)  # inches without the legend: 317 points wide, so that the text is readable on a phone
LINE = 0.19  # inches, of the legend
WRAP = 52  # characters in a line of it
NAME = 28  # characters of a name beside a text


def styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return colour, line and marker of each name; after six the colours repeat with another line."""
    return {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": LINES[(i + i // len(COLOURS)) % len(LINES)],
            "marker": MARKERS[i % len(MARKERS)],
            "markersize": 4,
        }
        for i, name in enumerate(names)
    }


def new_figure(width: float, height: float, columns: int = 1) -> tuple["Figure", list["Axes"]]:
    """Return an empty figure, in inches, and its axes side by side."""
    checks.require("matplotlib", extra="train")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    found = list(figure.subplots(1, columns, squeeze=False)[0])
    for axes in found:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, found


def lr_figure(curve: Mapping[str, Any]) -> "Figure":
    """Draw loss over learning rate, and a dot for each suggestion: ``curve`` holds the fields of an LrCurve."""
    import numpy as np

    figure, (axes,) = new_figure(6, 3.6)
    lrs, means = curve["lrs"], curve["smoothed"]
    axes.plot(lrs, curve["losses"], color=PALE, linewidth=1, label="loss of a step")
    axes.plot(lrs, means, color=COLOURS[0], linewidth=2, label="smoothed")
    for name, colour in zip(("valley", "slide", "steepest", "minimum"), COLOURS[1:], strict=False):
        if (lr := curve[name]) is not None:
            loss = np.interp(np.log(lr), np.log(lrs), means)
            axes.plot(lr, loss, "o", color=colour, label=f"{name}: {lr:.2g}", clip_on=False)
    top, bottom = max(means[:-5] or means), min(curve["losses"])  # the last steps diverge, and would flatten all else
    room = 0.05 * (top - bottom) or 0.1
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss (nats)")
    axes.set(xlim=(lrs[0], lrs[-1]), ylim=(bottom - room, top + room))
    axes.legend(frameon=False, fontsize=8)
    return figure


@dataclass(frozen=True)
class Curves:
    """The scores of an arm's runs: of each run epoch -> score. A stopped run has an epoch after which it diverged."""

    arm: str
    runs: Sequence[Mapping[int, float]]
    stopped: Sequence[int | None]


@dataclass(frozen=True)
class Point:
    """An arm's mean, its interval if there is one, and its runs' scores, over the cost of its training."""

    arm: str
    cost: float
    mean: float
    interval: tuple[float, float] | None
    scores: Sequence[float]


@dataclass(frozen=True)
class Line:
    """A line of a forest or dot plot: a value with its interval, single runs as dots, and a published value."""

    name: str
    text: str
    value: float
    colour: str
    interval: tuple[float, float] | None = None
    dots: Sequence[float] = ()
    published: float | None = None


def lines_figure(lines: Sequence[Line], *, label: str, zero: bool = False) -> "Figure":
    """Draw a line of its own for each value, its name and text above it; ``zero`` adds a line of no difference."""
    heights = [0.24 + LINE * len(_wrapped(line.name, NAME).splitlines()) for line in lines]
    figure, (axes,) = new_figure(SIZE[0], sum(heights) + 0.65)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set(xlabel=label, ylim=(sum(heights), 0), yticks=[])
    if zero:
        axes.axvline(0, color=SOFT, linewidth=1, linestyle=":")
    top = 0.0
    for line, height in zip(lines, heights, strict=True):
        y = top + height - 0.12
        style = {"color": line.colour, "zorder": 3}
        if line.interval:
            axes.plot(line.interval, (y, y), linewidth=2.4, solid_capstyle="butt", **style)
        axes.plot(line.dots, [y] * len(line.dots), ".", markersize=5, alpha=0.6, **style)
        axes.plot(line.value, y, "o", markersize=7, **style)
        if line.published is not None:
            axes.plot(line.published, y, "D", markersize=6, markerfacecolor="none", color=COLOURS[3], zorder=4)
        for x, side, text in ((0, "left", _wrapped(line.name, NAME)), (1, "right", line.text)):
            axes.text(
                x, top + 0.04, text, transform=axes.get_yaxis_transform(), ha=side, va="top", fontsize=8.5,
                parse_math=False, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            )  # fmt: skip
        top += height
    axes.margins(x=0.06)
    return figure


def curves_figure(curves: Sequence[Curves], *, arms: Sequence[str], label: str) -> "Figure":
    """Draw means over runs as lines, smallest to largest run as bands, and stopped runs as thin lines with a cross.

    Args:
        arms: all arms of the block, whose order gives the styles.
        label: of the scores.
    """
    figure, axes = _study_figure(len(curves), arms, "epoch", label)
    from matplotlib.ticker import MaxNLocator

    found = styles(arms)
    handles = {}
    for arm in curves:
        style = found[arm.arm]
        epochs = sorted({epoch for run in arm.runs for epoch in run})
        at = [[run[epoch] for run in arm.runs if epoch in run] for epoch in epochs]
        if len(arm.runs) > 1:
            band = [min(scores) for scores in at], [max(scores) for scores in at]
            axes.fill_between(epochs, *band, color=style["color"], alpha=0.15, linewidth=0)
        means = [sum(scores) / len(scores) for scores in at]
        (handles[arm.arm],) = axes.plot(epochs, means, linewidth=1.8, **style)
        for run, stopped in zip(arm.runs, arm.stopped, strict=True):
            if stopped is not None:
                axes.plot(list(run), list(run.values()), color=style["color"], linewidth=0.8)
                if stopped in run:
                    axes.plot(stopped, run[stopped], "x", color=style["color"], markersize=9, markeredgewidth=2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _add_legend(figure, handles)
    return figure


def cost_figure(points: Sequence[Point], *, arms: Sequence[str], cost: str, label: str) -> "Figure":
    """Draw means with their intervals, and runs as small dots, over ``cost``, which names its unit."""
    figure, axes = _study_figure(len(points), arms, cost, label)
    found = styles(arms)
    handles = {}
    for point in points:
        style = {**found[point.arm], "linestyle": "none"}
        dots = [point.cost] * len(point.scores)
        axes.plot(dots, point.scores, "_", color=style["color"], markersize=9, alpha=0.6)
        ends = point.interval and [[point.mean - point.interval[0]], [point.interval[1] - point.mean]]
        handles[point.arm] = axes.errorbar(
            [point.cost], [point.mean], yerr=ends, capsize=4, elinewidth=1.6, **{**style, "markersize": 7}
        )
    axes.margins(x=0.1)
    _add_legend(figure, handles)
    return figure


def _study_figure(drawn: int, arms: Sequence[str], x: str, y: str) -> tuple["Figure", "Axes"]:
    """Return an empty figure with room for a legend of ``arms``, if any is ``drawn``."""
    lines = sum(len(_wrapped(arm).splitlines()) for arm in arms)
    figure, (axes,) = new_figure(SIZE[0], SIZE[1] + LINE * (lines + 1) * bool(drawn))
    axes.set(xlabel=x, ylabel=y)
    return figure, axes


def _add_legend(figure: "Figure", handles: Mapping[str, Any]) -> None:
    if not handles:
        return
    legend = figure.legend(
        list(handles.values()), [str(i) for i in range(len(handles))], loc="outside lower left", frameon=False,
        fontsize=9, handlelength=3.2,
    )  # fmt: skip
    for text, arm in zip(legend.get_texts(), handles, strict=True):
        text.set_parse_math(False)  # a name may hold $ and begin with _
        text.set_text(_wrapped(arm))


def _wrapped(arm: str, width: int = WRAP) -> str:
    return textwrap.fill(arm, width) or arm


def sweep_figure(title: str, records: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw milliseconds an image, median and spread, and megabytes an image, a line for each candidate."""
    figure, (times, memory) = new_figure(11, 4.6, columns=2)
    for name, style in styles(list(dict.fromkeys(record["contestant"] for record in records))).items():
        rows = sorted((r for r in records if r["contestant"] == name), key=lambda r: r["size"])
        style |= {"linewidth": 1.2, "label": shown(name)}
        scaled = [[1e3 * s / r["shape"]["B"] for s in r["seconds"]] for r in rows]
        medians = [statistics.median(s) for s in scaled]
        ends = [[m - min(s), max(s) - m] for m, s in zip(medians, scaled, strict=True)]
        times.errorbar([r["size"] for r in rows], medians, yerr=list(zip(*ends, strict=True)), capsize=2, **style)
        held = [(r["size"], r["peak_bytes"] / r["shape"]["B"] / 1e6) for r in rows if r["peak_bytes"]]
        if held:
            memory.plot(*zip(*held, strict=True), **style)
    batches = {record["size"]: record["shape"]["B"] for record in records}
    for axes, label in ((times, "ms an image"), (memory, "peak MB an image")):
        axes.set_xscale("log", base=2)
        axes.set(yscale="log", xlabel="map", ylabel=label)
        axes.set_xticks(sorted(batches), [f"{n} x {n}\nbatch {batches[n]}" for n in sorted(batches)])
        axes.minorticks_off()
    figure.suptitle(shown(title), fontsize=10)
    figure.legend(*times.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    return figure
