"""Drawings of a study: its arms' scores over epochs with bands, and over what their training cost.

Colours: six that differ by at least 43 in CIELAB for people with any one kind of colour-blindness too (simulated after
Machado et al. 2009), each with a contrast of at least 3 to 1 on white; lines and markers differ as well.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnconv import checks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#3e07fd", "#e96710", "#0da783", "#591004", "#b159c6", "#240f3a")
LINES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX*"

SIZE = (4.4, 3.1)  # inches without the legend: 317 points wide, so that the text is readable on a phone
LINE = 0.19  # inches, of the legend
WIDTH = 260  # points between the ends of the axis, about
BESIDE = 16  # points between arms of nearly the same cost
WRAP = 52  # characters in a line of it


@dataclass(frozen=True)
class Curves:
    """The scores of an arm's runs: of each run epoch -> score. A stopped run has an epoch after which it diverged."""

    arm: str
    runs: Sequence[Mapping[int, float]]
    stopped: Sequence[int | None]


@dataclass(frozen=True)
class Point:
    """An arm's mean, its interval if there is one, and its runs' scores, over what its training cost."""

    arm: str
    cost: float
    mean: float
    interval: tuple[float, float] | None
    scores: Sequence[float]


def curves_figure(curves: Sequence[Curves], *, arms: Sequence[str], label: str) -> "Figure":
    """Means over runs as lines, smallest to largest run as bands, and each stopped run as a thin line with a cross.

    Args:
        arms: all of the study, whose order gives the styles.
        label: of the scores.
    """
    figure, axes = _figure(len(curves), arms)
    from matplotlib.ticker import MaxNLocator

    found = styles(arms)
    handles = {}
    for arm in curves:
        style = found[arm.arm]
        epochs = sorted({epoch for run in arm.runs for epoch in run})
        at = [[run[epoch] for run in arm.runs if epoch in run] for epoch in epochs]
        means = [sum(scores) / len(scores) for scores in at]
        if len(arm.runs) > 1:
            band = [min(scores) for scores in at], [max(scores) for scores in at]
            axes.fill_between(epochs, *band, color=style["color"], alpha=0.15, linewidth=0)
        (handles[arm.arm],) = axes.plot(epochs, means, linewidth=1.8, **style)
        for run, stopped in zip(arm.runs, arm.stopped, strict=True):
            if stopped is not None:
                axes.plot(list(run), list(run.values()), color=style["color"], linewidth=0.8)
                if stopped in run:
                    axes.plot(stopped, run[stopped], "x", color=style["color"], markersize=9, markeredgewidth=2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(figure, axes, handles, "epoch", label)
    return figure


def cost_figure(points: Sequence[Point], *, arms: Sequence[str], cost: str, label: str) -> "Figure":
    """Means with their intervals, and each run as a small dot; arms of nearly the same cost stand side by side.

    Args:
        cost: what the points' cost is, with its unit.
    """
    figure, axes = _figure(len(points), arms)
    from matplotlib.transforms import offset_copy

    found = styles(arms)
    handles = {}
    low, high = _span([point.cost for point in points])
    axes.set_xlim(low, high)
    shifts = _shifts([(point.cost - low) / (high - low) * WIDTH for point in points])
    for point, shift in zip(points, shifts, strict=True):
        style = {**found[point.arm], "linestyle": "none", "markersize": 7}
        there, right = (offset_copy(axes.transData, figure, x, units="points") for x in (shift, shift + 7))
        dots = [point.cost] * len(point.scores)
        axes.plot(dots, point.scores, ".", color=style["color"], markersize=3, transform=right)
        handles[point.arm] = axes.errorbar(
            [point.cost], [point.mean], yerr=_reach(point), capsize=4, elinewidth=1.6, transform=there, **style
        )
    heights = [y for point in points for y in (point.mean, *(point.interval or ()), *point.scores)]
    axes.update_datalim([(low, y) for y in heights])  # which shifted points do not do
    axes.autoscale_view(scalex=False)
    _finish(figure, axes, handles, cost, label)
    return figure


def _span(costs: Sequence[float]) -> tuple[float, float]:
    """The ends of the axis: costs that are nearly the same are to look so."""
    if not costs:
        return 0.0, 1.0
    reach = max(0.6 * (max(costs) - min(costs)), 0.1 * max(costs))
    middle = (max(costs) + min(costs)) / 2
    return max(0.0, middle - reach), middle + reach


def _shifts(places: Sequence[float]) -> list[float]:
    """Return the shift of each place that leaves all of them BESIDE apart; 0 where they are already.

    Places that are too near to each other are set around their mean, in their order.
    """
    groups: list[list[int]] = []
    ends: list[tuple[float, float]] = []
    for i in sorted(range(len(places)), key=lambda i: places[i]):
        group = [i]
        while True:
            middle, reach = sum(places[k] for k in group) / len(group), BESIDE * (len(group) - 1) / 2
            if not ends or middle - reach >= ends[-1][1] + BESIDE:
                break
            group = groups.pop() + group
            ends.pop()
        groups.append(group)
        ends.append((middle - reach, middle + reach))
    shifts = [0.0] * len(places)
    for group, (start, _) in zip(groups, ends, strict=True):
        for place, i in enumerate(group):
            shifts[i] = start + BESIDE * place - places[i]
    return shifts


def styles(arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, line and marker of each arm; the colours come again after six, with another line."""
    return {
        arm: {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": LINES[(i + i // len(COLOURS)) % len(LINES)],
            "marker": MARKERS[i % len(MARKERS)],
            "markersize": 4,
        }
        for i, arm in enumerate(arms)
    }


def _reach(point: Point) -> list[list[float]] | None:
    if point.interval is None:
        return None
    return [[max(0.0, point.mean - point.interval[0])], [max(0.0, point.interval[1] - point.mean)]]


def _figure(shown: int, arms: Sequence[str]) -> tuple["Figure", "Axes"]:
    checks.require("matplotlib", extra="train")
    from matplotlib.figure import Figure

    lines = sum(len(_wrapped(arm).splitlines()) for arm in arms)
    figure = Figure(figsize=(SIZE[0], SIZE[1] + LINE * (lines + 1) * bool(shown)), layout="constrained")
    return figure, figure.subplots()


def _finish(figure: "Figure", axes: "Axes", handles: Mapping[str, Any], x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if not handles:
        return
    legend = figure.legend(
        list(handles.values()), [str(i) for i in range(len(handles))], loc="outside lower left", frameon=False,
        fontsize=9, handlelength=3.2,
    )  # fmt: skip
    for text, arm in zip(legend.get_texts(), handles, strict=True):
        text.set_parse_math(False)  # a name may hold $ and begin with _
        text.set_text(_wrapped(arm))


def _wrapped(arm: str) -> str:
    return textwrap.fill(arm, WRAP) or arm
