"""The attention maps in a study's report: of arms with attention on far-pairs, whose answer is known to be far away."""

from collections.abc import Mapping, Sequence
from typing import Any

from attnconv import checks
from attnconv.report.study_page import Drawing, Drawings, Part
from attnconv.report.svg import svg_file
from attnconv.study.folder import StudyFolder
from attnconv.study.plan import Study

DATA = "far-pairs"
CAPTION = (
    "Two images that differ in the right glyph alone, and what the middle of the left one (dot, square) attends to: "
    "below each, the heads of the last layer, dark for none. From {}."
)


def attention_drawings(
    study: Study, folder: StudyFolder, block: str, records: Sequence[Mapping[str, Any]]
) -> list[Part]:
    """One drawing for each such arm of ``block``, of its first run that is done and whose last checkpoint is kept.

    Nothing of torch is loaded where no arm is on far-pairs.
    """
    done = {(record["arm"], record["seed"]) for record in records if record["state"] == "done"}
    drawings, notes = [], []
    for arm in study.blocks()[block]:
        if study.options(arm).get("data") != DATA:
            continue
        runs = [run for run in study.runs() if run.arm == arm and (run.arm, run.seed) in done]
        kept = [run for run in runs if folder.run(run).last.exists()]
        try:
            drawings += _drawings(folder, kept[0].name) if kept else []
        except checks.InputError as error:
            notes.append(f"No attention map: {error}.")
    return [*([Drawings(drawings)] if drawings else []), *notes]


def _drawings(folder: StudyFolder, run: str) -> list[Drawing]:
    """None for a network without attention."""
    from attnconv.explain import attention_layers
    from attnconv.recipes import load_trained
    from attnconv.study.far_pairs_figure import far_pairs_figure

    trained = load_trained(folder.path / "runs" / run, checkpoint="last", device="cpu")
    if not attention_layers(trained.model):
        return []
    return [Drawing(svg_file(far_pairs_figure(trained)), f"attention-{run.replace('/', '-')}", CAPTION.format(run))]
