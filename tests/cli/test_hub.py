"""A run shared: saved as a folder with its classes, its preprocessing and a card, and used from there."""

import dataclasses
import json
import re
import shlex
import shutil

import pytest
import torch
from cli.conftest import picture
from cli.test_bad_input import assert_refused

from attnconv.cli import parse
from attnconv.cli.flags import NO_SURGERY
from attnconv.cli.train import NO_BASE
from attnconv.models import from_pretrained
from attnconv.recipes import list_recipes, load_trained
from attnconv.recipes.trained import command, recipe_of, shareable
from attnconv.train.config import RunConfig

pytest.importorskip("huggingface_hub")


FLAGS = {
    "save": "--checkpoint --folder --license --model --run",
    "push": "--branch --checkpoint --license --model --private --repo-id --run",
}


@pytest.mark.parametrize("command", FLAGS)
def test_every_flag_is_listed_here(attnconv, command):
    _, out, _ = attnconv("hub", command, "--help")
    assert set(re.findall(r"--[a-z][a-z0-9-]*", out)) == {"--import", *FLAGS[command].split()}


@pytest.fixture(scope="module")
def saved(finished):
    folder = finished.parent / "shared"
    load_trained(finished, device="cpu").model.save_pretrained(folder)
    return folder


def test_the_command_saves_the_same(attnconv, finished, saved, tmp_path):
    code, out, err = attnconv("hub", "save", finished, tmp_path / "new")
    assert code == 0, err
    assert out == f"{tmp_path / 'new'}: config.json, model.safetensors, README.md\n"
    for name in ("config.json", "model.safetensors", "README.md"):
        assert (tmp_path / "new" / name).read_bytes() == (saved / name).read_bytes()


def test_the_network_says_what_its_images_are_and_how_it_was_trained(finished, saved):
    model, trained = from_pretrained(saved), load_trained(finished, device="cpu")
    assert model.meta["classes"] == trained.meta["classes"]
    assert "images" not in model.meta
    best = json.loads((finished / "result.json").read_text())
    scores = model.provenance["scores"]
    assert (scores["epoch"], scores["val_top1"]) == (best["best_epoch"], best["best_top1"])
    assert model.provenance["config"]["epochs"] == 2
    assert model.provenance["made_with"]["torch"] == torch.__version__
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(model(x), trained.model(x), rtol=0, atol=0)


def test_the_card_tells_the_run(finished, saved):
    text = (saved / "README.md").read_text()
    scores = from_pretrained(saved).provenance["scores"]
    assert f"| top-1 accuracy, % | {scores['val_top1']:.4g} |" in text
    assert f"On the validation images of digits, after epoch {scores['epoch']}; one run, one seed." in text
    assert "attnconv train --model aa_convnet3 --data digits" in text
    assert "Weights: not stated" in text
    assert "Classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9." in text
    assert str(finished.parent) not in text + (saved / "config.json").read_text()


def test_the_example_tells_its_run_too(attnconv, tmp_path):
    from attnconv.recipes.trained import EXAMPLE

    attnconv("hub", "save", str(EXAMPLE), str(tmp_path / "saved"))
    text = (tmp_path / "saved" / "README.md").read_text()
    provenance = from_pretrained(tmp_path / "saved").provenance
    assert provenance["command"] in text
    assert "--recipe cifar100-small-30ep" in provenance["command"]
    assert provenance["made_with"]["commit"] in text
    assert f"On the validation images of cifar100, after epoch {provenance['scores']['epoch']}; one run" in text
    assert f"| top-1 accuracy, % | {provenance['scores']['val_top1']:.4g} |" in text


def test_a_run_and_what_was_exported_of_it_are_saved_alike(attnconv, finished, saved, tmp_path):
    for number, source in enumerate((finished, saved)):
        code, _, err = attnconv("export", source, "--format", "safetensors", "--out", tmp_path / str(number))
        assert code == 0, err
        for name in ("config.json", "model.safetensors", "README.md"):
            assert (tmp_path / str(number) / name).read_bytes() == (saved / name).read_bytes()


def test_scores_are_those_of_the_run(finished, saved):
    best = json.loads((finished / "result.json").read_text())
    for source in (finished, saved):
        scores = load_trained(source, device="cpu").scores
        assert (scores["epoch"], scores["top1"]) == (best["best_epoch"], best["best_top1"])
        assert scores["torch"] == best["torch"]


@pytest.mark.parametrize(
    ("form", "name"), [pytest.param("torch", "a.pt2", marks=pytest.mark.slow), ("safetensors", "a")]
)
def test_at_another_size_scores_would_be_others(attnconv, finished, tmp_path, form, name):
    code, _, err = attnconv("export", finished, "--format", form, "--image-size", 9, "--out", tmp_path / name)
    assert code == 0, err
    trained = load_trained(tmp_path / name, device="cpu", trust=True)
    assert trained.scores.keys() == {"attnconv", "torch", "device", "commit"}
    assert (trained.config.image_size, trained.meta["image_size"]) == (9, [9, 9])


def test_predict_and_evaluate_take_the_folder(attnconv, finished, saved, tmp_path):
    picture(tmp_path / "a.png")
    answers = [
        attnconv("predict", run, tmp_path / "a.png", "--json", "--device", "cpu")[1] for run in (finished, saved)
    ]
    one, other = (json.loads(answer)["predictions"] for answer in answers)
    assert one == other
    answers = [attnconv("evaluate", run, "--json", "--device", "cpu")[1] for run in (finished, saved)]
    one, other = (json.loads(answer) for answer in answers)
    assert one["top1"] == other["top1"]
    assert one["loss"] == other["loss"]


def test_a_run_with_files_of_the_hub_in_it_is_still_the_run(finished, saved, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.copytree(saved, run, dirs_exist_ok=True)
    assert load_trained(run, checkpoint="last", device="cpu").checkpoint.name == "last.pt"


def test_bad_input(attnconv, finished, saved, tmp_path, monkeypatch):
    assert_refused(attnconv("hub", "save", tmp_path / "none", tmp_path / "to"), "neither a run folder nor a checkpoint")
    assert_refused(
        attnconv("hub", "save", finished, finished / "result.json"), "cannot write a network to .*File exists"
    )
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert_refused(attnconv("hub", "push", finished, "a/b"), "cannot push to a/b: the Hugging Face Hub needs a token")
    folder = shutil.copytree(saved, tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "meta": None}))
    assert_refused(attnconv("evaluate", folder), "does not say what its images are: the network was not saved from a")
    (folder / "config.json").write_text(json.dumps({**config, "provenance": None}))
    assert_refused(attnconv("evaluate", folder), "does not say in which folder its images are; --data names it")
    (folder / "config.json").write_text(json.dumps({**config, "meta": {**config["meta"], "mean": 0}}))
    assert_refused(attnconv("evaluate", folder), "does not say what its images are: meta's 'mean' must list one")
    (folder / "config.json").write_text(json.dumps({**config, "meta": {**config["meta"], "resize_ratio": 1}}))
    assert attnconv("evaluate", folder)[0] == 0
    (folder / "config.json").write_text(json.dumps({**config, "provenance": {"config": {"epoch": 1}}}))
    assert_refused(attnconv("evaluate", folder), "unknown option in .*config.json 'epoch'; nearest: 'epochs'")
    (folder / "config.json").write_text(json.dumps(config))
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert_refused(attnconv("evaluate", folder), "model.safetensors is damaged or was changed")


def parsed(text):
    """The configuration that a printed command asks for."""
    words = shlex.split(text)
    assert words[0] == "attnconv"
    _, bound = parse(words[1:])
    given = bound.arguments
    return given.get("base", NO_BASE).settings(given.get("options") or {}, given.get("surgery", NO_SURGERY))


CONFIGS = [
    RunConfig(),
    RunConfig(model="unet", data="far-context", compile=True, clip=1.0, devices="auto", lr=1e-3),
    RunConfig(model="ssa_xresnet18", model_options={"symmetric": True, "stem": [8, 8, 16], "act": "mish"}, epochs=7),
    RunConfig(model="convnet3", image_size=(32, 48)),
    *(dataclasses.replace(shareable(recipe.config), seed=3) for recipe in list_recipes()),
    *(
        dataclasses.replace(recipe.config, model="xresnet18", model_options={"se": True})
        for recipe in list_recipes()
        if "imagewoof" in recipe.name
    ),
]


def test_the_command_on_the_card_makes_the_run_again():
    assert len(CONFIGS) > 10
    for config in CONFIGS:
        found = parsed(command(config))
        assert {**found.to_dict(), "model_options": {}} == {**config.to_dict(), "model_options": {}}
        assert config.model_options.items() <= found.model_options.items()


def test_a_recipe_is_named():
    for recipe in list_recipes():
        assert recipe_of(dataclasses.replace(shareable(recipe.config), seed=5, device="cpu")) is not None
    assert recipe_of(RunConfig(epochs=77)) is None


def test_folders_of_this_machine_are_not_shared():
    config = shareable(RunConfig(data="/home/someone/images", data_dir="/home/someone/sets"))
    assert (config.data, config.data_dir) == ("FOLDER", None)
    assert "someone" not in command(config)
