"""The drawings of one comparison: curves with bands, and scores over training time and FLOPs."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from attnconv.report.study_page import Drawing, Drawings, Part
from attnconv.report.study_plot import Curves, Point, cost_figure, curves_figure
from attnconv.report.svg import svg_file
from attnconv.study import budgets
from attnconv.study.arm import Arm, Record, validated
from attnconv.study.compared import chance_of
from attnconv.study.comparison import Comparison, Row

CURVES = "Lines: means over runs; bands: smallest to largest run."
CUT_OFF = " Thin lines with a cross: runs that diverged there, and count with the score they had, or with chance."
COSTS = (
    "Points: means over runs with 95 % intervals, cut at 0 and 100; small dots: runs. Arms of nearly "
    "the same cost stand side by side."
)
TIME_UNITS = ((3 * 3600.0, 3600.0, "h"), (300.0, 60.0, "min"), (0.0, 1.0, "s"))  # from, size, name
FLOPS_UNITS = ((1e18, 1e18, "EFLOPs"), (1e15, 1e15, "PFLOPs"), (1e12, 1e12, "TFLOPs"), (0.0, 1e9, "GFLOPs"))
CLOCKS = (
    ("time", "training time", budgets.time_clock, TIME_UNITS),
    ("flops", "training FLOPs", budgets.flops_clock, FLOPS_UNITS),
)


def drawings(comparison: Comparison, block: str) -> list[Part]:
    """None where no run has a score yet."""
    chance = chance_of(comparison.records, comparison.score)
    arms = [row.arm for row in comparison.rows]
    read = {name: Arm([r for r in comparison.records if r["arm"] == name], chance) for name in arms}
    suffix, label = f"-{block}" if block else "", f"{comparison.score} (%)"
    found = []
    epochs = sorted({epoch for arm in read.values() for record in arm.done for epoch in validated(record)})
    if curves := [curve for name, arm in read.items() if (curve := curves_of(name, arm, epochs)).runs]:
        figure = curves_figure(curves, arms=arms, label=label)
        cut = CUT_OFF if any(arm.diverged for arm in read.values()) else ""
        caption = f"{comparison.score} on validation, by epoch. {CURVES}{cut}"
        found.append(Drawing(svg_file(figure), f"curves{suffix}", caption))
    for name, title, clock, units in CLOCKS:
        points = [point for row in comparison.rows if (point := point_of(row, read[row.arm], clock))]
        if not points:
            continue
        _, size, unit = next(unit for unit in units if max(point.cost for point in points) >= unit[0])
        points = [replace(point, cost=point.cost / size) for point in points]
        figure = cost_figure(points, arms=arms, cost=f"{title} ({unit})", label=label)
        caption = f"{comparison.score} after the last epoch, over {title}. {COSTS}"
        found.append(Drawing(svg_file(figure), f"{name}{suffix}", caption))
    return [Drawings(found)] if found else []


def curves_of(name: str, arm: Arm, of_all: Sequence[int]) -> Curves:
    """Of runs that are done or diverged; where a diverged one has no score of its own, what it counts with.

    ``of_all``: the epochs of the runs of all arms, for an arm none of whose runs is done.
    """
    runs, stopped = [], []
    epochs = sorted({epoch for record in arm.done for epoch in validated(record)}) or of_all
    for record in (*arm.done, *arm.diverged):
        own = validated(record)
        if record["state"] == "done":
            runs.append(own)
            stopped.append(None)
        elif epochs:
            runs.append({epoch: arm.at(record, epoch) for epoch in epochs})
            stopped.append(max(own, default=epochs[0]))
    return Curves(name, [run for run in runs if run], [s for run, s in zip(runs, stopped, strict=True) if run])


def point_of(row: Row, arm: Arm, clock: Callable[[Sequence[Record]], Sequence[float] | None]) -> Point | None:
    """An arm in a drawing of costs; None if no run is done, or what it cost is not known."""
    spent, estimate = clock(arm.done) if arm.done else None, row.last.estimate
    if not spent or estimate is None or estimate.mean is None:
        return None
    interval = estimate.interval
    ends = None
    if interval.low is not None and interval.high is not None:
        ends = max(0.0, interval.low), min(100.0, interval.high)
    return Point(row.arm, spent[-1], estimate.mean, ends, list(arm.last.values()))
