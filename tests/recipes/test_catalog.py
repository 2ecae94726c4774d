"""Every recipe makes its configuration and its network; some of their values beside what was published."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
import yaml

from attnconv.checks import InputError
from attnconv.data import DATA_SETS
from attnconv.layers import AugmentedConv2d, SelfAttention, SimpleSelfAttention
from attnconv.models import create_model
from attnconv.models.registry import find
from attnconv.recipes import catalog, find_recipe, list_recipes
from attnconv.train.config import RunConfig

RECIPES = {r.name: r for r in list_recipes()}
CLASSES = {"cifar100": 100, "FOLDER": 1000}  # 10, if not here
OWN_SIZE = 32


def network(config):
    with torch.device("meta"):
        return create_model(
            config.model,
            num_classes=CLASSES.get(config.data, 10),
            image_size=config.image_size or OWN_SIZE,
            **config.model_options,
        ).eval()


def test_the_recipes():
    second_document = {
        *(f"imagewoof-{run}" for run in ("128-5ep", "256-5ep", "256-20ep", "256-80ep", "256-400ep")),
        *(f"imagenette-{run}" for run in ("128-5ep", "256-5ep", "256-20ep")),
    }
    assert second_document < set(RECIPES)
    assert len(RECIPES) == 23


# One of each network and set of options; the others differ in data, size and epochs.
FAST = (
    *("imagewoof-128-5ep", "imagewoof-48-5ep", "leaderboard-imagewoof-256-5ep", "cifar100-500ep-plain"),
    *("cifar100-convnet3-100ep", "cifar100-aa-convnet3-35ep", "cifar10-wide-resnet-100ep", "imagenet-100ep"),
)


def slow_but(names, fast=FAST):
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", slow_but(RECIPES))
def test_its_network_takes_its_images(name):
    config = RECIPES[name].config
    assert type(config) is RunConfig
    size = config.image_size or OWN_SIZE
    y = network(config)(torch.empty(2, 3, size, size, device="meta"))
    assert y.shape == (2, CLASSES.get(config.data, 10))


@pytest.mark.parametrize("name", RECIPES)
def test_it_says_how_it_is_run_and_what_to_expect(name):
    found = RECIPES[name]
    assert found.command.startswith(f"attnconv train --recipe {name}")
    assert re.search(r"\d|nothing published", found.expected)
    assert found.source
    assert (found.config.data in DATA_SETS) != found.needs_data


def test_nothing_in_the_file_is_left_unread():
    path = Path(catalog.__file__).with_name("catalog.yaml")
    entries = yaml.safe_load(path.read_text())["recipes"]
    known = {"title", "flags", "source", "expected", "measured", "config"}
    assert {name: unread for name, entry in entries.items() if (unread := set(entry) - known)} == {}
    assert list(entries) == [r.name for r in list_recipes()]
    assert find_recipe("imagewoof-256-400ep").command.endswith("imagewoof-256-400ep --on-nan rollback")


XRESNETS = [name for name in RECIPES if name.startswith(("imagewoof", "imagenette", "leaderboard"))]


@pytest.mark.parametrize("name", slow_but(XRESNETS, fast=("imagewoof-128-5ep", "leaderboard-imagenette-256-5ep")))
@pytest.mark.parametrize(
    ("model", "kind"),
    [("xresnet50", None), ("sa_xresnet50", SelfAttention), ("ssa_xresnet50", SimpleSelfAttention)],
)
def test_the_network_is_free_and_keeps_the_options(name, model, kind):
    values = RECIPES[name].under({"model": model})
    assert values["model_options"] == RECIPES[name].config.model_options
    layers = [m for m in network(RunConfig(**values)).modules() if isinstance(m, (SelfAttention, SimpleSelfAttention))]
    assert [type(m) for m in layers] == [kind] * (kind is not None)


def test_the_symmetric_form_is_an_option():
    values = RECIPES["imagewoof-128-5ep"].under({"model_options": {"symmetric": True}})
    (layer,) = (m for m in network(RunConfig(**values)).modules() if isinstance(m, SimpleSelfAttention))
    assert layer.symmetric


def values_of(name, *fields):
    return tuple(getattr(RECIPES[name].config, field) for field in fields)


@pytest.mark.parametrize(
    ("name", "data", "size", "epochs", "expected"),
    [
        ("imagewoof-128-5ep", "imagewoof-old", 128, 5, "xresnet50 62.3, sa_xresnet50 64.0, ssa_xresnet50 65.2"),
        ("imagewoof-256-5ep", "imagewoof-old", 256, 5, "xresnet50 61.9, ssa_xresnet50 67.6"),
        ("imagewoof-256-20ep", "imagewoof-old", 256, 20, "xresnet50 83.9, ssa_xresnet50 85.66"),
        ("imagewoof-256-80ep", "imagewoof-old", 256, 80, "xresnet50 89.9, ssa_xresnet50 90.3"),
        ("imagewoof-256-400ep", "imagewoof-old", 256, 400, "xresnet50 90.2 (doubted), ssa_xresnet50 91"),
        ("imagenette-128-5ep", "imagenette-old", 128, 5, "xresnet50 85.5, ssa_xresnet50 86.3"),
        ("imagenette-256-5ep", "imagenette-old", 256, 5, "xresnet50 84.6, ssa_xresnet50 85.3"),
        ("imagenette-256-20ep", "imagenette-old", 256, 20, "xresnet50 93.6, ssa_xresnet50 94.4"),
    ],
)
def test_simple_self_attention(name, data, size, epochs, expected):
    assert values_of(name, "data", "image_size", "epochs") == (data, size, epochs)
    assert RECIPES[name].expected == expected
    assert RECIPES[name].measured is None
    assert values_of(name, "optimizer", "lr", "batch_size", "weight_decay", "label_smoothing") == (
        "adamw", 3e-3, 64, 1e-2, 0.1,
    )  # fmt: skip
    assert values_of(name, "momentum", "base_momentum", "max_momentum") == (None, 0.85, 0.95)
    assert values_of(name, "schedule", "warmup", "crop_scale", "presize", "precision") == (
        "one-cycle", 0.3, 0.35, True, "fp16",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "model", "batch_size", "lr", "weight_decay", "expected"),
    [
        ("cifar100-500ep-plain", "wide_resnet28_10", 1024, 0.8, 2e-4, "wide_resnet28_10 80.3, top-5 95.0"),
        ("cifar100-500ep-aa", "aa_wide_resnet28_10", 256, 0.2, 5e-4, "aa_wide_resnet28_10 81.6, top-5 95.2"),
    ],
)
def test_the_paper_on_cifar_100(name, model, batch_size, lr, weight_decay, expected):
    assert values_of(name, "model", "batch_size", "weight_decay") == (model, batch_size, weight_decay)
    assert RECIPES[name].config.lr == pytest.approx(lr)
    assert values_of(name, "data", "epochs", "schedule", "warmup", "momentum", "optimizer") == (
        "cifar100", 500, "cosine", 0.05, 0.9, "sgd",
    )  # fmt: skip
    assert RECIPES[name].expected == expected


def test_the_one_for_a_cpu():
    """Runs of it are published with exactly these values."""
    expected = RunConfig(
        model="ssa_xresnet18", data="imagewoof", image_size=48, epochs=5, batch_size=64, optimizer="adamw", lr=3e-3,
        base_momentum=0.85, max_momentum=0.95, weight_decay=1e-2, label_smoothing=0.1, cache_images=True,
        precision="fp32",
    )  # fmt: skip
    assert RECIPES["imagewoof-48-5ep"].config == expected


def test_the_leaderboard_runs_are_ranger_on_an_se_resnext():
    config = RECIPES["leaderboard-imagenette-256-20ep"].config
    assert (config.optimizer, config.schedule, config.lr, config.momentum) == ("ranger", "flat-cosine", 8e-3, 0.95)
    model = network(config)
    assert [m.out_channels for m in model.stem if isinstance(m, torch.nn.Conv2d)] == [32, 32, 64]  # fastai's
    assert sum(isinstance(m, torch.nn.Mish) for m in model.modules()) > 40
    assert {m.groups for m in model.modules() if isinstance(m, torch.nn.Conv2d)} >= {1, 32}
    assert "BlurPool2d" in {type(m).__name__ for m in model.modules()}
    assert type(model.layer1[0].se).__name__ == "SqueezeExcitation"


def test_all_three_layers_of_the_first_documents_comparison_are_augmented():
    plain, augmented = (RECIPES[f"cifar100-{name}"] for name in ("convnet3-100ep", "aa-convnet3-35ep"))
    assert (plain.config.epochs, augmented.config.epochs) == (100, 35)
    assert plain.expected.startswith("61.6 ")
    assert augmented.expected.startswith("59.82 ")
    assert sum(isinstance(m, AugmentedConv2d) for m in network(augmented.config).modules()) == 3
    assert augmented.under({"model": "convnet3"})["model_options"] == {}


def test_values_lie_over_the_recipe():
    found = find_recipe("cifar10-wide-resnet-100ep")
    values = found.under({"epochs": 3, "model_options": {"num_heads": 4}})
    assert values["epochs"] == 3
    assert values["data"] == "cifar10"
    assert values["model_options"] == {"dropout": 0.3, "num_heads": 4}
    assert found.under({"model_options": {"dropout": 0.1}})["model_options"] == {"dropout": 0.1}
    assert found.under({"model": "seed_aa_wide_resnet28_10"})["model_options"] == {"dropout": 0.3}
    assert found.under({"model": "resnet18"})["model_options"] == {}
    assert found.config.model_options == {"dropout": 0.3}


def test_what_the_user_asks_of_the_network_is_not_dropped():
    values = find_recipe("imagewoof-128-5ep").under({"model": "xresnet50", "model_options": {"symmetric": True}})
    with pytest.raises(InputError, match=r"unknown option of xresnet50: 'symmetric'"):
        find(values["model"]).check_options(values["model_options"])


def test_imagenet_needs_a_folder():
    found = find_recipe("imagenet-100ep")
    with pytest.raises(InputError, match=r"^recipe 'imagenet-100ep' needs --data FOLDER, a folder with train/<class>/"):
        found.under({"epochs": 3})
    assert found.under({"data": "/images"})["data"] == "/images"


def test_an_unknown_name():
    with pytest.raises(InputError, match=r"^unknown recipe 'imagewoof-128-5'; nearest: 'imagewoof-128-5ep'$"):
        find_recipe("imagewoof-128-5")


def test_a_recipe_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECIPES["cifar100-30ep"].name = "other"
