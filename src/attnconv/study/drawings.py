"""The drawings in a study's report: curves with bands, scores over training time and FLOPs, and attention maps.

The maps are of arms with attention on far-pairs, whose answer is known to be far away.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from attnconv import checks
from attnconv.report.page import svg_file
from attnconv.report.plots import Curves, Point, cost_figure, curves_figure
from attnconv.study.comparison import Arm, Comparison, Row, flops_clock, time_clock, validated
from attnconv.study.folder import Record, StudyFolder
from attnconv.study.plan import Study

CURVES = "Lines: means over runs; bands: smallest to largest run."
CUT_OFF = " Thin lines with a cross: runs that diverged there, and count with the score they had, or with chance."
COSTS = (
    "Points: means over runs with 95 % intervals, cut at 0 and 100; small dots: runs. Arms of nearly "
    "the same cost stand side by side."
)
ATTENTION = (
    "Two images that differ in the right glyph alone, and the attention of the left glyph (dot) in the last layer: the "
    "mean of the heads, and each head. From {}."
)
TIME_UNITS = ((3 * 3600.0, 3600.0, "h"), (300.0, 60.0, "min"), (0.0, 1.0, "s"))  # from, size, name
FLOPS_UNITS = ((1e18, 1e18, "EFLOPs"), (1e15, 1e15, "PFLOPs"), (1e12, 1e12, "TFLOPs"), (0.0, 1e9, "GFLOPs"))
CLOCKS = (
    ("time", "training time", time_clock, TIME_UNITS),
    ("flops", "training FLOPs", flops_clock, FLOPS_UNITS),
)
FAR_PAIRS = "far-pairs"


class Drawing(NamedTuple):
    """``svg`` is a file's text, ``name`` that of the file beside the Markdown, without ending."""

    svg: str
    name: str
    caption: str


def drawings(comparison: Comparison, block: str) -> list[Drawing]:
    """Return curves, and scores over costs; none where no run has a score yet."""
    arms = list(comparison.arms)
    suffix, label = f"-{block}" if block else "", f"{comparison.score} (%)"
    found = []
    epochs = sorted({epoch for arm in comparison.arms.values() for record in arm.done for epoch in validated(record)})
    if curves := [curve for name, arm in comparison.arms.items() if (curve := curves_of(name, arm, epochs)).runs]:
        figure = curves_figure(curves, arms=arms, label=label)
        cut = CUT_OFF if any(arm.diverged for arm in comparison.arms.values()) else ""
        caption = f"{comparison.score} on validation, by epoch. {CURVES}{cut}"
        found.append(Drawing(svg_file(figure), f"curves{suffix}", caption))
    for name, title, clock, units in CLOCKS:
        points = [point for row in comparison.rows if (point := point_of(row, comparison.arms[row.arm], clock))]
        if not points:
            continue
        _, size, unit = next(unit for unit in units if max(point.cost for point in points) >= unit[0])
        points = [replace(point, cost=point.cost / size) for point in points]
        figure = cost_figure(points, arms=arms, cost=f"{title} ({unit})", label=label)
        caption = f"{comparison.score} after the last epoch, over {title}. {COSTS}"
        found.append(Drawing(svg_file(figure), f"{name}{suffix}", caption))
    return found


def curves_of(name: str, arm: Arm, of_all: Sequence[int]) -> Curves:
    """Return the curves of runs that are done or diverged; what a diverged one has no score for, it counts with.

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
    """Return an arm's point in a drawing of costs; None if no run is done, or what it cost is not known."""
    spent, estimate = clock(arm.done) if arm.done else None, row.last.estimate
    if not spent or estimate is None or estimate.mean is None:
        return None
    interval = estimate.interval
    ends = None
    if interval.low is not None and interval.high is not None:
        ends = max(0.0, interval.low), min(100.0, interval.high)
    return Point(row.arm, spent[-1], estimate.mean, ends, list(arm.last.values()))


def attention_drawings(
    study: Study, folder: StudyFolder, block: str, records: Sequence[Mapping[str, Any]]
) -> tuple[list[Drawing], list[str]]:
    """Return a drawing for each arm of ``block`` with attention on far-pairs, and why there is none where it failed.

    Of the arm's first run that is done and whose last checkpoint is kept. Nothing of torch is loaded where no arm is on
    far-pairs.
    """
    done = {(record["arm"], record["seed"]) for record in records if record["state"] == "done"}
    found, failures = [], []
    for arm in study.blocks()[block]:
        if study.options(arm).get("data") != FAR_PAIRS:
            continue
        runs = [run for run in study.runs() if run.arm == arm and (run.arm, run.seed) in done]
        kept = next((run.name for run in runs if folder.run(run).last.exists()), None)
        if kept is None:
            continue
        from attnconv.explain import attention_layers, far_pairs_figure
        from attnconv.recipes import load_trained

        try:
            trained = load_trained(folder.path / "runs" / kept, checkpoint="last", device="cpu")
            if attention_layers(trained.model):
                name = f"attention-{kept.replace('/', '-')}"
                found.append(Drawing(svg_file(far_pairs_figure(trained)), name, ATTENTION.format(kept)))
        except checks.InputError as error:
            failures.append(f"No attention map: {error}.")
    return found, failures
