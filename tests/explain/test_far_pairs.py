"""Attention on far-pairs: two images that differ in the far glyph, and a network's attention on each."""

import numpy as np
import pytest
import torch

from attnconv.checks import InputError
from attnconv.explain import AttentionMap, Row, far_pairs_figure, far_pairs_images
from attnconv.explain.far_pairs import far_pairs_text
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
    for text, truth in zip(figure.texts[::2], ("different", "same"), strict=True):
        assert text.get_text().startswith(f"pair: {truth}; network: ")
        assert text.get_text().endswith("%")
    different, same = (figure.axes[i].images[0].get_array() for i in (0, 6))
    middle = same.shape[1] // 2
    assert np.array_equal(same[:, :middle], different[:, :middle])
    assert not np.array_equal(same[:, middle:], different[:, middle:])


def test_the_text_gives_the_shares_of_the_right_half():
    different, same = torch.zeros(2, 2, 4, 8)
    different[:, 1, 0], different[0, 2, 7], different[1, 3, 4] = 0.25, 0.75, 0.75
    same[:, 1, 3], same[1, 1, 4] = torch.tensor([1.0, 0.9]), 0.1
    rows = [Row(torch.zeros(1, 16, 32), (0, 0), AttentionMap("a", (1, 0), found), "") for found in (different, same)]
    assert far_pairs_text(rows).startswith(
        "Of the left glyph's weight, 75 % lies on the right half of the image if the glyphs differ, and 5 % if "
    )


def test_runs_on_other_data_are_refused(tmp_path):
    run(RunConfig(model="convnet3", data="digits", **SMALL), tmp_path / "run", progress=False)
    with pytest.raises(InputError, match="must be one on 'far-pairs', got one on 'digits'"):
        far_pairs_figure(load_trained(tmp_path / "run", device="cpu"))


def test_networks_without_attention_are_refused(tmp_path):
    run(RunConfig(model="convnet3", data="far-pairs", **SMALL), tmp_path / "run", progress=False)
    with pytest.raises(InputError, match="ConvNet3 has no attention layer to explain"):
        far_pairs_figure(load_trained(tmp_path / "run", device="cpu"))
