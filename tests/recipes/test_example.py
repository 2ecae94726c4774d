"""The network that the package brings."""

import dataclasses

import pytest
import torch

from attnconv.data import load_data
from attnconv.explain import attention_layers
from attnconv.recipes import load_trained
from attnconv.recipes.example import CONFIG, EXAMPLE, example_images, load_example, make_example
from attnconv.train.evaluate import evaluate


def test_it_scores_what_it_says():
    trained = load_example("cpu")
    data = load_data("far-pairs")
    assert trained.meta["images"] == data.meta()["images"]
    scores = evaluate(trained.model, data.val_loader(batch_size=144, device=torch.device("cpu"), workers=0))
    assert scores.count == 576
    assert scores.top1 == pytest.approx(trained.scores["top1"], abs=100 / 576)  # an image that another CPU rounds
    assert trained.scores["top1"] >= 98


def test_it_is_small_and_knows_its_origin():
    trained = load_example("cpu")
    assert sum(file.stat().st_size for file in EXAMPLE.iterdir()) < 2_000_000
    assert trained.config == CONFIG
    assert "--data far-pairs" in trained.model.provenance["command"]
    assert {"epoch", "torch", "attnconv", "commit", "device"} <= trained.scores.keys()
    assert list(attention_layers(trained.model).values()) == ["layer3.0"]
    assert not trained.model.training


def test_its_images_are_told_apart_by_the_far_glyph():
    trained = load_example("cpu")
    same, different = example_images()
    assert (same.label, different.label) == ("same", "different")
    assert same.point == different.point
    assert same.image.getpixel(same.point[::-1]) >= 128
    left, right = (shown.image.crop((0, 0, 16, 16)).tobytes() for shown in (same, different))
    assert left == right
    assert same.image.tobytes() != different.image.tobytes()
    assert trained.meta["classes"] == ["same", "different"]


def test_it_is_made_anew(tmp_path, capsys):
    config = dataclasses.replace(CONFIG, epochs=1, train_subset=64)
    make_example(tmp_path / "new", config)
    trained = load_trained(tmp_path / "new", device="cpu")
    assert trained.meta["images"] == load_data("far-pairs", train_subset=64).meta()["images"]
    assert trained.config == config
    assert f"top-1 {trained.scores['top1']:.2f}% of 576 images" in capsys.readouterr().out
    own = load_example("cpu").model.state_dict()
    assert {name: tensor.shape for name, tensor in trained.model.state_dict().items()} == {
        name: tensor.shape for name, tensor in own.items()
    }
