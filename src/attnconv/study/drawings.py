"""The drawings in a study's report: differences to the baseline, curves, scores over costs, and attention maps.

The maps are of arms with attention on far-pairs, whose answer is known to be far away.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from attnconv import checks
from attnconv.report.page import svg_file
from attnconv.report.plots import COLOURS, SOFT, Curves, Line, Point, cost_figure, curves_figure, lines_figure, styles
from attnconv.study.comparison import Arm, Comparison, Row, validated
from attnconv.study.folder import StudyFolder
from attnconv.study.plan import Study
from attnconv.study.tables import FLOPS_UNITS, Compared, arms_of, findings, interval_text

FOREST = "Difference of each arm from its baseline, with the 95 % interval."
PUBLISHED = " Diamonds: published differences."
CURVES = "Lines: means over runs; bands: smallest to largest run."
CUT_OFF = " Thin lines with a cross: runs that diverged there, and count with the score they had, or with chance."
DOTS = "Small dots: runs; large dots: means."
COSTS = "Points: means with 95 % intervals; dashes: runs."
VERDICTS = {"better": COLOURS[2], "worse": COLOURS[1], "none": SOFT}
ATTENTION = (
    "Two images that differ in the right glyph alone, and the attention of the left glyph (dot) in the last layer: the "
    "mean of the heads, and each head. From {}."
)
TIME_UNITS = ((3 * 3600.0, 3600.0, "h"), (300.0, 60.0, "min"), (0.0, 1.0, "s"))  # from, size, name
CLOCKS = (("time", "training time", TIME_UNITS), ("flops", "training FLOPs", FLOPS_UNITS))
FAR_PAIRS = "far-pairs"


class Drawing(NamedTuple):
    """``svg`` is a file's text, ``name`` that of the file beside the Markdown, without ending."""

    svg: str
    name: str
    caption: str


def forest(study: Study, compared: Compared) -> list[Drawing]:
    """Return the drawing of all differences to the baselines, with the published ones; nothing without a difference."""
    verdicts = [found.verdict for found in findings(compared)]
    others = [(one, row) for one, row in arms_of(compared) if row.arm != one.baseline]
    lines = []
    for (comparison, row), verdict in zip(others, verdicts, strict=True):
        difference = row.last.difference
        if difference is None or difference.mean is None:
            continue
        ours, base = (study.published.get(name, {}).get("value") for name in (row.arm, comparison.baseline))
        ends = difference.interval.ends
        lines.append(
            Line(
                row.arm,
                f"{difference.mean:+.2f}" + (f" ({interval_text(difference, kind=False)})" if ends else ""),
                difference.mean,
                VERDICTS[verdict],
                interval=ends,
                published=None if ours is None or base is None else ours - base,
            )
        )
    if not lines:
        return []
    figure = lines_figure(lines, label=f"difference from {study.baseline}, points", zero=True)
    return [Drawing(svg_file(figure), "forest", FOREST + PUBLISHED * any(line.published is not None for line in lines))]


def drawings(comparison: Comparison, block: str) -> list[Drawing]:
    """Return curves (dots for a single epoch) and scores over costs; nothing while no run has a score."""
    arms = [_own(arm) for arm in comparison.arms]
    suffix, label = f"-{block}" if block else "", f"{comparison.score} (%)"
    found = []
    epochs = sorted({epoch for arm in comparison.arms.values() for record in arm.done for epoch in validated(record)})
    curves = [curve for name, arm in comparison.arms.items() if (curve := curves_of(name, arm, epochs)).runs]
    if curves and len(epochs) > 1:
        cut = CUT_OFF if any(arm.diverged for arm in comparison.arms.values()) else ""
        caption = f"{comparison.score} on validation, by epoch. {CURVES}{cut}"
        figure = curves_figure(curves, arms=arms, label=label)
        found.append(Drawing(svg_file(figure), f"curves{suffix}", caption))
    elif curves:
        look = styles(arms)
        scores = {curve.arm: [score for run in curve.runs for score in run.values()] for curve in curves}
        means = {arm: sum(values) / len(values) for arm, values in scores.items()}
        lines = [
            Line(arm, f"{means[arm]:.2f}", means[arm], look[arm]["color"], dots=values)
            for arm, values in scores.items()
        ]
        caption = f"{comparison.score} on validation after the only epoch. {DOTS}"
        found.append(Drawing(svg_file(lines_figure(lines, label=label)), f"runs{suffix}", caption))
    for clock, title, units in CLOCKS:
        points = [point for row in comparison.rows if (point := point_of(row, comparison.arms[row.arm], clock))]
        if not points:
            continue
        _, size, unit = next(unit for unit in units if max(point.cost for point in points) >= unit[0])
        points = [replace(point, cost=point.cost / size) for point in points]
        figure = cost_figure(points, arms=arms, cost=f"{title} ({unit})", label=label)
        caption = f"{comparison.score} after the last epoch, over {title}. {COSTS}"
        found.append(Drawing(svg_file(figure), f"{clock}{suffix}", caption))
    return found


def _own(arm: str) -> str:
    """Return the name of an arm without its block."""
    return arm.rpartition("/")[2]


def curves_of(name: str, arm: Arm, of_all: Sequence[int]) -> Curves:
    """Return the curves of finished and diverged runs; a diverged run keeps the score that it counts with.

    ``of_all``: the epochs of all arms, for an arm without a finished run.
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
    return Curves(_own(name), [run for run in runs if run], [s for run, s in zip(runs, stopped, strict=True) if run])


def point_of(row: Row, arm: Arm, clock: str) -> Point | None:
    """Return an arm's point over "time" or "flops"; None if no run is done, or the cost is not known."""
    spent, estimate = getattr(arm, clock), row.last.estimate
    if not spent or estimate is None or estimate.mean is None:
        return None
    return Point(_own(row.arm), spent[-1], estimate.mean, estimate.interval.ends, list(arm.last.values()))


def attention_drawings(
    study: Study, folder: StudyFolder, block: str, records: Sequence[Mapping[str, Any]]
) -> tuple[list[Drawing], list[str]]:
    """Return a drawing for each arm of ``block`` with attention on far-pairs, and the reasons of those that failed.

    It is of the arm's first finished run whose last checkpoint is kept. Other arms load no torch.
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
