"""The network and the photos that the package ships."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch

from attnconv.data import decode_image
from attnconv.explain import attention_layers, attention_maps, see_image
from attnconv.recipes import example_images, find_recipe, load_example, load_trained, run
from attnconv.recipes.trained import EXAMPLE, images_for
from attnconv.train.config import RunConfig
from attnconv.train.evaluate import evaluate

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "make_example.py"


def test_it_is_small_and_knows_its_origin():
    trained = load_example("cpu")
    assert sum(file.stat().st_size for file in EXAMPLE.iterdir()) < 2_000_000
    recipe = find_recipe("cifar100-small-30ep").config
    assert (trained.config.model, trained.config.model_options) == (recipe.model, recipe.model_options)
    assert trained.model.provenance["recipe"] == "cifar100-small-30ep"
    assert trained.model.provenance["command"].startswith("attnconv train --recipe cifar100-small-30ep")
    assert {"epoch", "top1", "torch", "attnconv", "commit", "device"} <= trained.scores.keys()
    assert len(attention_layers(trained.model)) == 4
    assert not trained.model.training
    assert {tensor.dtype for tensor in trained.model.parameters()} == {torch.float32}  # of float16 in the file
    assert f"{trained.scores['top1']:.4g}" in (EXAMPLE / "README.md").read_text()


def test_it_knows_what_is_on_its_photos():
    trained = load_example("cpu")
    assert example_images()
    for one in example_images():
        seen = see_image(decode_image(one.path, 3), trained.meta)
        likely = int(trained.model(seen.prepared[None]).argmax())
        assert trained.meta["classes"][likely] == one.label
        maps = attention_maps(trained.model, seen.prepared, seen.point(one.point))
        assert [tuple(found.weights.shape[1:]) for found in maps] == [(16, 16)] * 2 + [(8, 8)] * 2


def test_each_photo_has_its_source_and_licence():
    notes = (EXAMPLE / "PHOTOS.md").read_text()
    photos = [path.name for path in EXAMPLE.glob("*.jpg")]
    assert sorted(photos) == sorted(one.path.name for one in example_images())
    assert all(f"## {name}" in notes for name in photos)


@pytest.mark.slow
@pytest.mark.skipif("ATTNCONV_TEST_DATA" not in os.environ, reason="needs CIFAR-100")
def test_it_scores_what_it_says():
    trained = load_example("cpu")
    data = images_for(trained, data_dir=Path(os.environ["ATTNCONV_TEST_DATA"]))
    scores = evaluate(trained.model, data.val_loader(batch_size=250, device=torch.device("cpu"), workers=0))
    assert scores.count == 10_000
    assert scores.top1 == pytest.approx(trained.scores["top1"], abs=0.05)  # images that another CPU rounds


def test_it_is_made_of_a_run(tmp_path, capsys):
    settings = {"epochs": 1, "train_subset": 64, "batch_size": 32, "device": "cpu", "workers": 0}
    finished = tmp_path / "run"
    run(RunConfig(model="aa_convnet3", data="digits", **settings), finished, progress=False)
    spec = importlib.util.spec_from_file_location("make_example", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.make_example(finished, "a machine", tmp_path / "new")
    trained = load_trained(tmp_path / "new", device="cpu")
    assert f"top-1 {trained.scores['top1']:.2f}% of " in capsys.readouterr().out
    assert "on a machine." in (tmp_path / "new" / "README.md").read_text()
    assert json.loads((tmp_path / "new" / "config.json").read_text())["model"] == trained.config.model
    kept = load_trained(finished, device="cpu").model.state_dict()
    assert all(torch.equal(kept[name].half().to(t.dtype), t) for name, t in trained.model.state_dict().items())
