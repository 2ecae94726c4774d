"""The drawings in a study's report: curves with bands, scores over training time and FLOPs, and attention maps.

The maps are of arms with attention on far-pairs, whose answer is known to be far away.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from attnconv import checks
from attnconv.report.page import svg_file
from attnconv.report.plots import Curves, Point, cost_figure, curves_figure
from attnconv.shown import shown
from attnconv.study.comparison import Arm, Comparison, Row, flops_clock, time_clock, validated
from attnconv.study.folder import Record, StudyFolder
from attnconv.study.plan import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from attnconv.recipes import Trained

CURVES = "Lines: means over runs; bands: smallest to largest run."
CUT_OFF = " Thin lines with a cross: runs that diverged there, and count with the score they had, or with chance."
COSTS = (
    "Points: means over runs with 95 % intervals, cut at 0 and 100; small dots: runs. Arms of nearly "
    "the same cost stand side by side."
)
ATTENTION = (
    "Two images that differ in the right glyph alone, and what the middle of the left one (dot, square) attends to: "
    "below each, the heads of the last layer, dark for none. From {}."
)
TIME_UNITS = ((3 * 3600.0, 3600.0, "h"), (300.0, 60.0, "min"), (0.0, 1.0, "s"))  # from, size, name
FLOPS_UNITS = ((1e18, 1e18, "EFLOPs"), (1e15, 1e15, "PFLOPs"), (1e12, 1e12, "TFLOPs"), (0.0, 1e9, "GFLOPs"))
CLOCKS = (
    ("time", "training time", time_clock, TIME_UNITS),
    ("flops", "training FLOPs", flops_clock, FLOPS_UNITS),
)
FAR_PAIRS = "far-pairs"
PANEL_INCHES = (1.9, 1.25)  # two of them are as wide as a phone


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
        from attnconv.explain import attention_layers
        from attnconv.recipes import load_trained

        try:
            trained = load_trained(folder.path / "runs" / kept, checkpoint="last", device="cpu")
            if attention_layers(trained.model):
                name = f"attention-{kept.replace('/', '-')}"
                found.append(Drawing(svg_file(far_pairs_figure(trained)), name, ATTENTION.format(kept)))
        except checks.InputError as error:
            failures.append(f"No attention map: {error}.")
    return found, failures


def far_pairs_figure(trained: "Trained") -> "Figure":
    """Draw a column for each of two images, same and different: the image, and each head's attention in the last layer.

    The images are validation's first, whatever the network says of them; what it says stands above them. The query is
    the centre of the left glyph. Heads share a colour scale from 0 to the column's largest weight.

    Args:
        trained: a network with attention, trained on far-pairs.
    Raises:
        InputError: it was trained on other data, or has no attention.
    """
    checks.require("matplotlib", extra="train")
    import torch
    from matplotlib.figure import Figure

    from attnconv.explain import attention_maps, see_image
    from attnconv.explain.figure import draw_attention
    from attnconv.recipes import example_images

    if trained.config.data != FAR_PAIRS:
        raise checks.InputError(f"the run must be one on {FAR_PAIRS!r}, and is one on {trained.config.data!r}")
    examples = example_images()
    seen = [see_image(example.image, trained.meta) for example in examples]
    points = [image.point(example.point) for image, example in zip(seen, examples, strict=True)]
    images = torch.stack([image.prepared for image in seen]).to(trained.device)  # (2, C, H, W)
    found = [attention_maps(trained.model, image, at)[-1] for image, at in zip(images, points, strict=True)]
    rows = 1 + max(attention.weights.shape[0] for attention in found)
    width, height = PANEL_INCHES
    figure = Figure(figsize=(width * len(found), height * rows), layout="constrained")
    grid = figure.subplots(rows, len(found), squeeze=False)
    classes = trained.meta["classes"]
    with torch.no_grad():
        chances = trained.model(images).softmax(1)  # (2, K)
    columns = zip(grid.T, examples, seen, points, found, chances, strict=True)
    for column, example, image, point, attention, chance in columns:
        likely = int(chance.argmax())
        title = f"{example.label}\nnetwork: {shown(classes[likely])}, {100 * chance[likely]:.1f}%"
        draw_attention(column, image.pixels, attention, point, title=title)
    return figure
