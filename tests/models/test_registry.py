"""Networks by name: lists, families, options, and what is refused."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import attnconv
from attnconv import networks
from attnconv.bench import models as bench
from attnconv.models import create_model, list_models
from attnconv.models.registry import Images, find


def make(name, **settings):
    return create_model(name, **{"num_classes": 2, "image_size": 8, **settings})


def test_list_models_matches_shell_patterns():
    assert list_models() == sorted(set(list_models()))
    assert list_models("*convnet3") == ["aa_convnet3", "convnet3"]
    assert list_models("aa_resnet*") == [f"aa_resnet{depth}" for depth in (101, 152, 18, 34, 50)]
    assert list_models("*_xresnet50") == ["sa_xresnet50", "ssa_xresnet50"]
    assert list_models("*28_10") == [
        "aa_wide_resnet28_10",
        "se_wide_resnet28_10",
        "seed_aa_wide_resnet28_10",
        "wide_resnet28_10",
    ]
    assert list_models("nothing") == []


def test_a_family_has_more_names_than_are_listed():
    assert "wide_resnet10_3" not in list_models()
    model = make("wide_resnet10_3")
    assert [layer[0].conv2.out_channels for layer in (model.layer1, model.layer2, model.layer3)] == [48, 96, 192]
    assert [len(layer) for layer in (model.layer1, model.layer2, model.layer3)] == [1, 1, 1]


def test_options_and_their_defaults():
    assert find("convnet3").options == {}
    assert find("aa_convnet3").options["augment"] == (2, 3)
    assert find("aa_wide_resnet10_3").options == {
        "shortcut": "pad", "dropout": 0.0, "stages": (1, 2, 3), "key_ratio": 0.2, "value_ratio": 0.1, "num_heads": 8,
        "min_head_dim": 20, "position": "relative",
    }  # fmt: skip
    assert (find("aa_resnet34").options["key_ratio"], find("aa_resnet34").options["value_ratio"]) == (0.25, 0.25)
    assert (find("aa_resnet50").options["key_ratio"], find("aa_resnet50").options["value_ratio"]) == (0.2, 0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make("convnet4"), "unknown model 'convnet4'; nearest: 'convnet3'"),
        (lambda: make("resnet51"), "unknown model 'resnet51'; nearest: 'resnet"),
        (lambda: make("wide_resnet28_0"), "unknown model 'wide_resnet28_0'; nearest: 'wide_resnet28_10'"),
        (lambda: make("wide_resnet27_2"), r"must be 6n \+ 4; got 27, nearest: 22 or 28"),
        (lambda: make("aa_wide_resnet50_2"), r"must be 6n \+ 4; got 50, nearest: 46 or 52"),
        (lambda: make("wide_resnet4_2"), r"must be 6n \+ 4; got 4, nearest: 10"),
        (lambda: make("aa_convnet3", augmnt=(1,)), "unknown option of aa_convnet3: 'augmnt'; nearest: 'augment'"),
        (lambda: make("convnet3", augment=(1,)), "unknown option of convnet3"),
        (lambda: make("wide_resnet10_1", depth=16), "unknown option of wide_resnet10_1: 'depth'"),
        (lambda: make("convnet3", num_classes=0), "num_classes must be at least 1, got 0"),
        (lambda: make("convnet3", image_size=(8, 8, 8)), "image_size must be one integer or 2"),
        (lambda: find("convnet4").options, "unknown model 'convnet4'; nearest: 'convnet3'"),
        (
            lambda: make("aa_wide_resnet10_1", stages=(1, 4)),
            r"stages must be a list of stages among 1, 2 and 3, got \(1, 4\)",
        ),
        (lambda: make("aa_resnet18", stages=2), "stages must be a list of stages among 1, 2, 3 and 4, got 2"),
        (lambda: make("sa_xresnet18", attention_stages="1"), "attention_stages must be a list of stages among"),
        (lambda: make("wide_resnet10_1", shortcut="pool"), "unknown shortcut 'pool'; known: conv, pad"),
        (lambda: make("wide_resnet10_1", dropout=1), "dropout must be at least 0 and below 1, got 1"),
        (lambda: make("aa_resnet18", value_ratio=1.5), "value_channels must be at most out_channels=128, got 192"),
        (lambda: make("aa_resnet18", position="sin"), "unknown position 'sin'; nearest: 'sine'"),
        (lambda: make("xresnet18", act="swish"), "unknown act 'swish'; nearest: 'mish'"),
        (lambda: make("xresnet18", shortcut_pool="avg"), "unknown shortcut_pool 'avg'; nearest: 'average'"),
        (lambda: make("xresnet18", stem=(32, 64)), "stem must be one integer or 3"),
        (lambda: make("xresnet50", groups=0), "groups must be at least 1, got 0"),
        (lambda: make("xresnet50", width_per_group=0), "width_per_group must be at least 1, got 0"),
        (
            lambda: make("xresnet34", groups=32),
            "groups and width_per_group are for bottlenecks, xresnet50 and deeper; xresnet34 has none",
        ),
    ],
)
def test_bad_input_gets_a_sentence(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "dense", "images"),
    [
        ("aa_convnet3", False, (100, 32)),
        ("se_wide_resnet10_1", False, (100, 32)),
        ("seed_aa_wide_resnet28_10", False, (100, 32)),
        ("aa_resnet34", False, (1000, 224)),
        ("ssa_xresnet18", False, (10, 128)),
        ("aa_unet", True, (2, 64)),
        ("torchvision:resnet18", False, (1000, 224)),
        ("timm:convnext_atto", False, (1000, 224)),
        ("timm:inception_v3", False, (1000, 299)),
    ],
)
def test_each_name_says_whether_it_answers_a_pixel_and_what_it_was_published_for(name, dense, images):
    assert bool(find(name).dense) == dense
    assert find(name).images == Images(*images)


@pytest.mark.parametrize("name", ["aa_wide_resnet10_1", "ssa_xresnet18", "aa_convnet3", "aa_unet"])
def test_a_network_has_the_classes_and_the_image_size_it_was_published_with_where_none_are_given(name):
    usual = find(name).images
    blueprint = attnconv.create_model(name).blueprint
    assert (blueprint.num_classes, blueprint.image_size) == (usual.num_classes, (usual.image_size,) * 2)
    assert attnconv.create_model(name, num_classes=3).blueprint.image_size == (usual.image_size,) * 2
    assert attnconv.create_model(name, image_size=(16, 24)).blueprint.num_classes == usual.num_classes


def test_networks_are_listed_and_made_at_the_top_of_the_package():
    assert attnconv.create_model is create_model
    assert attnconv.list_models is list_models
    listed = "import sys, attnconv; assert attnconv.list_models('aa_*'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", listed], check=True)


def test_hubconf_timm_and_benchmarks_ask_the_registry(monkeypatch):
    """What is registered now is known to all of them, whatever its name."""
    mine = [networks.Family(name, "convnet3:convnet3", Images(7, 48)) for name in ("aa_mine", "mine")]
    monkeypatch.setattr(networks, "FAMILIES", [*networks.FAMILIES, *mine])
    hubconf = runpy.run_path(str(Path(__file__).parents[2] / "hubconf.py"))
    assert "with num_classes=7, image_size=48 if" in hubconf["aa_mine"].__doc__
    assert bench.case_of("aa_mine") == bench.Case("aa_mine", 2, 48, 7)
    default = pytest.importorskip("attnconv.timm")._default_cfg("mine")
    assert (default["num_classes"], default["input_size"]) == (7, (3, 48, 48))
