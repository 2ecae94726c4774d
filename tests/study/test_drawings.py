"""The attention maps in a report: whose they are, what they show, and where there are none."""

import numpy as np
import pytest

from attnconv.checks import InputError
from attnconv.recipes import load_trained, run
from attnconv.study.drawings import attention_drawings, far_pairs_figure
from attnconv.study.folder import StudyFolder
from attnconv.study.plan_file import study_of
from attnconv.train.config import RunConfig

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
    assert drawing.svg.count("<image") == 2 * (1 + 4)


def test_nothing_is_drawn_without_a_run_that_is_done(trained):
    study, folder = trained
    undone = [{"arm": "far/attention", "seed": 4, "state": "running"}]
    assert attention_drawings(study, folder, "far", undone) == ([], [])
    done = [{"arm": "other/plain", "seed": 3, "state": "done"}]
    assert attention_drawings(study, folder, "other", done) == ([], [])


SMALL = {"epochs": 1, "train_subset": 32, "batch_size": 32, "device": "cpu"}


def test_the_figure_shows_two_images_that_differ_in_the_far_glyph(tmp_path):
    config = RunConfig(model="aa_convnet3", model_options={"augment": [3]}, data="far-pairs", **SMALL)
    run(config, tmp_path / "run", progress=False)
    figure = far_pairs_figure(load_trained(tmp_path / "run", device="cpu"))
    assert len(figure.axes) == 2 * (1 + 4)
    same, different = figure.axes[:2]
    for axes, truth in ((same, "same"), (different, "different")):
        title = axes.get_title()
        assert title.startswith(f"{truth}\nnetwork: ")
        assert title.endswith("%")
    pixels = [axes.images[0].get_array() for axes in (same, different)]
    assert np.array_equal(pixels[0][:, :16], pixels[1][:, :16])
    assert not np.array_equal(pixels[0][:, 16:], pixels[1][:, 16:])
    for heads in (figure.axes[2::2], figure.axes[3::2]):
        shown = [axes.images[0].get_array() for axes in heads]
        assert [weights.shape for weights in shown] == [(4, 8)] * 4
        assert [float(weights.sum()) for weights in shown] == pytest.approx([1] * 4, rel=1e-4)


def test_runs_on_other_data_are_refused(tmp_path):
    run(RunConfig(model="convnet3", data="digits", **SMALL), tmp_path / "run", progress=False)
    with pytest.raises(InputError, match="must be one on 'far-pairs', and is one on 'digits'"):
        far_pairs_figure(load_trained(tmp_path / "run", device="cpu"))


def test_networks_without_attention_are_refused(tmp_path):
    run(RunConfig(model="convnet3", data="far-pairs", **SMALL), tmp_path / "run", progress=False)
    with pytest.raises(InputError, match="ConvNet3 has no attention layer to explain"):
        far_pairs_figure(load_trained(tmp_path / "run", device="cpu"))
