"""The attention maps in a study's report: of arms with attention on far-pairs, whose answer is known to be far away."""

from collections.abc import Mapping, Sequence
from typing import Any

from attnconv.report.study_page import Block, Drawing, Drawings
from attnconv.report.svg import svg_file
from attnconv.study.folder import StudyFolder
from attnconv.study.plan import Study

DATA = "far-pairs"
CAPTION = (
    "Two images that differ in the right glyph alone, and what the middle of the left one (dot, square) attends to: "
    "one panel a head of the last layer, brighter is more. From {}."
)


def attention_drawings(
    study: Study, folder: StudyFolder, block: str, records: Sequence[Mapping[str, Any]]
) -> list[Block]:
    """One drawing for each such arm of ``block``, of its first run that is done and whose checkpoint is kept.

    Nothing of torch is loaded where no arm is on far-pairs.
    """
    done = {(record["arm"], record["seed"]) for record in records if record["state"] == "done"}
    found = []
    for arm in study.blocks()[block]:
        if study.options(arm).get("data") != DATA:
            continue
        runs = [run for run in study.runs() if run.arm == arm and (run.arm, run.seed) in done]
        kept = [run for run in runs if folder.run(run).best.exists()]
        if kept and (drawing := _drawing(folder, kept[0].name)):
            found.append(drawing)
    return [Drawings(found)] if found else []


def _drawing(folder: StudyFolder, run: str) -> Drawing | None:
    """None for a network without attention."""
    from attnconv.explain import attention_layers
    from attnconv.recipes import load_trained
    from attnconv.study.far_pairs_figure import far_pairs_figure

    path = folder.path / "runs" / run
    if not attention_layers(load_trained(path, device="cpu").model):
        return None
    return Drawing(svg_file(far_pairs_figure(path)), f"attention-{run.replace('/', '-')}", CAPTION.format(run))
