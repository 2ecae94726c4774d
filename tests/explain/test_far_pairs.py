"""Attention on far-pairs: two images that differ in the far glyph, and a network's attention on each."""

import numpy as np
import pytest

from attnconv.checks import InputError
from attnconv.explain import far_pairs_figure, far_pairs_images
from attnconv.recipes import load_trained, run
from attnconv.train.config import RunConfig

SMALL = {"epochs": 1, "train_subset": 32, "batch_size": 32, "device": "cpu"}


def test_the_images_differ_in_the_far_glyph_alone():
    different, same = far_pairs_images()
    assert (different.label, same.label) == ("different", "same")
    assert same.point == different.point
    assert same.image[(0, *same.point)] >= 128
    assert (same.image[..., :16] == different.image[..., :16]).all()
    assert (same.image[..., 16:] != different.image[..., 16:]).any()


def test_the_figure_has_a_row_for_each_image(tmp_path):
    config = RunConfig(model="aa_convnet3", model_options={"augment": [3]}, data="far-pairs", **SMALL)
    run(config, tmp_path / "run", progress=False)
    figure = far_pairs_figure(load_trained(tmp_path / "run", device="cpu"))
    assert [axes.get_title().split(":")[0] for axes in figure.axes] == [
        "query", "mean of 4 heads", "head 1", "head 2", "head 3", "head 4",
    ] * 2  # fmt: skip
    for text, truth in zip(figure.texts, ("different", "same"), strict=True):
        assert text.get_text().startswith(f"pair: {truth}; network: ")
        assert text.get_text().endswith("%")
    different, same = (figure.axes[i].images[0].get_array() for i in (0, 6))
    middle = same.shape[1] // 2
    assert np.array_equal(same[:, :middle], different[:, :middle])
    assert not np.array_equal(same[:, middle:], different[:, middle:])


def test_runs_on_other_data_are_refused(tmp_path):
    run(RunConfig(model="convnet3", data="digits", **SMALL), tmp_path / "run", progress=False)
    with pytest.raises(InputError, match="must be one on 'far-pairs', got one on 'digits'"):
        far_pairs_figure(load_trained(tmp_path / "run", device="cpu"))


def test_networks_without_attention_are_refused(tmp_path):
    run(RunConfig(model="convnet3", data="far-pairs", **SMALL), tmp_path / "run", progress=False)
    with pytest.raises(InputError, match="ConvNet3 has no attention layer to explain"):
        far_pairs_figure(load_trained(tmp_path / "run", device="cpu"))
