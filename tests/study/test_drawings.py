"""The attention maps in a report: whose they are, what they show, and where there are none."""

import pytest

from attnconv.recipes import run
from attnconv.study.drawings import attention_drawings
from attnconv.study.folder import StudyFolder
from attnconv.study.plan_file import study_of

BASE = {"data": "far-pairs", "epochs": 1, "train_subset": 32, "batch_size": 32, "device": "cpu", "workers": 0}
ARMS = {
    "far/plain": {"model": "convnet3"},
    "far/attention": {"model": "aa_convnet3", "model_options": {"augment": [3]}},
    "other/plain": {"model": "convnet3", "data": "digits"},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = StudyFolder(tmp_path_factory.mktemp("study"))
    values = {"name": "one", "text": "Why?", "base": BASE, "arms": ARMS, "baseline": "plain", "seeds": [3, 4]}
    study = study_of(values, source="the test")
    for planned in study.runs():
        if planned.seed == 4 and planned.arm.startswith("far"):
            run(planned.config, folder.run(planned).path, progress=False)
    return study, folder


def test_the_first_run_that_is_done_and_kept_is_drawn(trained):
    study, folder = trained
    records = [{"arm": arm, "seed": seed, "state": "done"} for arm in ("plain", "attention") for seed in (3, 4)]
    records = [{**found, "arm": f"far/{found['arm']}"} for found in records]
    (drawing,), failures = attention_drawings(study, folder, "far", records)
    assert not failures
    assert drawing.name == "attention-far-attention-seed4"
    assert drawing.caption.endswith("From far/attention-seed4.")
    assert drawing.svg.count("<image") == 2 * (2 + 4)


def test_nothing_is_drawn_without_a_run_that_is_done(trained):
    study, folder = trained
    undone = [{"arm": "far/attention", "seed": 4, "state": "running"}]
    assert attention_drawings(study, folder, "far", undone) == ([], [])
    done = [{"arm": "other/plain", "seed": 3, "state": "done"}]
    assert attention_drawings(study, folder, "other", done) == ([], [])
