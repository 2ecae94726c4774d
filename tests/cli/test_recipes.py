"""attnconv train --recipe and --list-recipes, and lr-find --recipe."""

import json

import pytest
import yaml

import attnconv.recipes
from attnconv.recipes import find_recipe, list_recipes
from attnconv.train.config import RunConfig

# A recipe of CIFAR-100, made small and for digits.
SMALL = ["--data", "digits", "--train-subset", "64", "--batch-size", "32", "--device", "cpu", "--precision", "fp32"]


def test_the_list(attnconv):
    code, out, _ = attnconv("train", "--list-recipes")
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert {r.name for r in list_recipes()} < set(rows)
    for part in ("ssa_xresnet50", "imagewoof-old", "128", " 5 ", "65.2"):
        assert part in rows["imagewoof-128-5ep"]
    assert [word in rows["recipe"] for word in ("network", "data", "px", "epochs", "top-1 %")] == [True] * 5


def test_all_about_one(attnconv):
    code, out, _ = attnconv("train", "--list-recipes", "--recipe", "imagewoof-128-5ep")
    assert code == 0
    assert "expected: xresnet50 62.3, sa_xresnet50 64.0, ssa_xresnet50 65.2\n" in out


def test_the_list_as_json(attnconv):
    code, out, _ = attnconv("train", "--list-recipes", "--json")
    assert code == 0
    found = {entry["name"]: entry for entry in json.loads(out)}
    assert list(found) == [r.name for r in list_recipes()]
    entry = found["imagewoof-128-5ep"]
    assert entry["command"] == "attnconv train --recipe imagewoof-128-5ep"
    assert entry["expected"] == "xresnet50 62.3, sa_xresnet50 64.0, ssa_xresnet50 65.2"
    assert entry["measured"] is None
    assert RunConfig.from_dict(entry["config"], source="the list") == find_recipe("imagewoof-128-5ep").config


def test_a_recipe_trains_and_its_config_yaml_says_everything(attnconv, tmp_path):
    code, _, err = attnconv(
        "train", "--recipe", "cifar100-aa-convnet3-35ep", *SMALL, "--epochs", "1", "--out", tmp_path / "run",
        "--option", "num_heads=2",
    )  # fmt: skip
    assert code == 0, err
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    recipe = find_recipe("cifar100-aa-convnet3-35ep").config.to_dict()
    changed = {name for name in written if written[name] != recipe[name]}
    assert changed == {"data", "train_subset", "batch_size", "device", "epochs", "model_options"}
    assert written["model_options"] == {"augment": [1, 2, 3], "num_heads": 2}
    # What was written is the whole run: the same without the recipe's name.
    code, _, err = attnconv("train", "--config", tmp_path / "run" / "config.yaml", "--out", tmp_path / "again")
    assert code == 0, err
    assert (tmp_path / "again" / "config.yaml").read_text() == (tmp_path / "run" / "config.yaml").read_text()


@pytest.fixture
def asked(monkeypatch):
    """The (configuration, folder) of runs that are asked for, none of which is made."""
    found = []
    names = ("top1", "top5", "epochs", "best_top1", "best_epoch", "params", "seconds", "skipped_images")
    result = dict.fromkeys(names, 0)

    def run(config, out, *, resume, profile, ready):
        found.append((config, out))
        return result

    monkeypatch.setattr(attnconv.recipes, "run", run)
    return found


def test_flags_override_the_file_which_overrides_the_recipe(attnconv, asked, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "lr: 0.5\nepochs: 7\nseed: 3\nmodel_options: {normalize: true, symmetric: true}\n"
    )
    code, _, err = attnconv(
        "train", "--recipe", "imagewoof-256-20ep", "--config", tmp_path / "mine.yaml", "--epochs", "2",
        "--option", "symmetric=false",
    )  # fmt: skip
    assert code == 0, err
    config = asked[0][0]
    assert (config.epochs, config.lr, config.seed, config.image_size) == (2, 0.5, 3, 256)
    assert config.model_options == {"normalize": True, "symmetric": False}


def test_a_value_that_is_the_default_overrides_too(attnconv, asked):
    attnconv("train", "--recipe", "imagewoof-256-20ep", "--optimizer", "sgd", "--epochs", "30")
    config = asked[0][0]
    assert (config.optimizer, config.epochs, config.lr) == ("sgd", 30, 3e-3)


def test_a_switch_that_a_recipe_sets_can_be_unset(attnconv, asked):
    attnconv("train", "--recipe", "imagewoof-48-5ep")
    attnconv("train", "--recipe", "imagewoof-48-5ep", "--no-cache-images")
    assert [config.cache_images for config, _ in asked] == [True, False]


@pytest.mark.parametrize(
    ("flags", "folder"),
    [
        (["--recipe", "imagewoof-48-5ep"], "runs/imagewoof-48-5ep-ssa_xresnet18-seed0"),
        (
            ["--recipe", "imagewoof-48-5ep", "--model", "xresnet18", "--seed", "2"],
            "runs/imagewoof-48-5ep-xresnet18-seed2",
        ),
        (["--recipe", "imagewoof-48-5ep", "--out", "here"], "here"),
        (["--data", "cifar10"], "runs/aa_convnet3-cifar10-seed0"),
    ],
)
def test_where_a_run_goes(attnconv, asked, flags, folder):
    code, _, err = attnconv("train", *flags)
    assert code == 0, err
    assert str(asked[0][1]) == folder


def test_lr_find_takes_a_recipe(attnconv, tmp_path):
    code, out, err = attnconv(
        "lr-find", "--recipe", "cifar100-convnet3-100ep", *SMALL, "--steps", "10", "--json", "--out", tmp_path / "curve"
    )
    assert code == 0, err
    assert len(json.loads(out)["lrs"]) <= 10
