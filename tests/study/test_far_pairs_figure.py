"""The figure of far-pairs: which images, which point, and what stands above them."""

import numpy as np
import pytest

from attnconv.checks import InputError
from attnconv.recipes import load_trained, run
from attnconv.study.drawings import far_pairs_figure
from attnconv.train.config import RunConfig

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
