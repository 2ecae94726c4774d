"""Every network of ours behind timm's own functions."""

import importlib
import subprocess
import sys
import warnings

import pytest
import torch

from attnconv.layers.attention import Attention
from attnconv.models import create_model, list_models
from attnconv.models.registry import find

timm = pytest.importorskip("timm")
bridge = pytest.importorskip("attnconv.timm")

QUICK = ("aa_convnet3", "attnconv_resnet18", "aa_wide_resnet16_4", "ssa_xresnet18")  # one of each family
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in bridge.NAMES]
SMALL = [
    "aa_convnet3",
    "ssa_xresnet18",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("aa_wide_resnet16_4", "aa_resnet18", "attnconv_resnet18", "sa_xresnet18")
    ),
]


def make(name, **settings):
    torch.manual_seed(0)
    settings = {"num_classes": 7, "img_size": 64, **settings}
    return timm.create_model(name, **settings).eval()


def test_every_network_is_listed():
    assert set(bridge.NAMES.values()) == {name for name in list_models() if find(name).own}
    assert set(bridge.NAMES) <= set(timm.list_models())
    assert set(list_models("aa_*")) <= set(timm.list_models("aa_*"))


def test_the_names_of_timm_stay_those_of_timm():
    assert type(timm.create_model("resnet18")).__module__ == "timm.models.resnet"
    taken = set(bridge.NAMES) - set(bridge.NAMES.values())
    assert taken == {f"attnconv_resnet{depth}" for depth in (18, 34, 50, 101, 152)}


@pytest.mark.parametrize("name", NAMES)
def test_every_name_makes_its_network(name):
    with torch.device("meta"):
        found = timm.create_model(name, num_classes=5, img_size=32)
        expected = create_model(bridge.NAMES[name], num_classes=5, image_size=32)
    assert {k: v.shape for k, v in found.state_dict().items()} == {k: v.shape for k, v in expected.state_dict().items()}
    assert found.default_cfg["architecture"] == name
    assert found.default_cfg["classifier"] == "fc"
    assert found.num_classes == 5


@pytest.mark.parametrize("name", SMALL)
def test_the_classifier_can_be_reset_and_left_out(name):
    model, x = make(name), torch.randn(2, 3, 64, 40)
    assert model(x).shape == (2, 7)
    features = model.forward_features(x)
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.num_features)
    torch.testing.assert_close(model.get_classifier()(pooled), model(x))
    model.reset_classifier(3)
    assert (model(x).shape, model.num_classes) == ((2, 3), 3)
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), pooled)
    model.reset_classifier(0, "")
    torch.testing.assert_close(model(x), features)


@pytest.mark.parametrize("name", SMALL)
def test_num_classes_zero_gives_pooled_features(name):
    model = make(name, num_classes=0)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, model.num_features)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("feature_cls", ["hook", "getter"])
def test_features_only(name, feature_cls):
    model = make(name, features_only=True, feature_cls=feature_cls)
    maps = model(torch.randn(2, 3, 64, 64))
    assert len(maps) == (3 if "convnet" in name or "wide" in name else 4)
    for found, channels, reduction in zip(
        maps, model.feature_info.channels(), model.feature_info.reduction(), strict=True
    ):
        assert found.shape == (2, channels, 64 // reduction, 64 // reduction)


def test_the_last_features_are_those_of_the_head():
    model, x = make("aa_wide_resnet16_4", features_only=True), torch.randn(1, 3, 32, 32)
    whole = make("aa_wide_resnet16_4")
    torch.testing.assert_close(model(x)[-1], whole.forward_features(x))


@pytest.mark.parametrize(
    ("settings", "size"), [({}, (3, 224, 224)), ({"img_size": (64, 48), "in_chans": 1}, (1, 64, 48))]
)
def test_the_default_cfg_tells_the_size_it_was_built_for(settings, size):
    with torch.device("meta"):
        assert timm.create_model("aa_resnet18", **settings).default_cfg["input_size"] == size


@pytest.mark.parametrize("name", NAMES)
def test_the_default_cfg_is_that_of_the_network(name):
    with torch.device("meta"):
        model = timm.create_model(name).eval()
        cfg = model.default_cfg
        assert model.forward_features(torch.empty(1, *cfg["input_size"])).shape[2:] == cfg["pool_size"]
    weights = model.state_dict()
    first = (cfg["first_conv"],) if isinstance(cfg["first_conv"], str) else cfg["first_conv"]
    assert {f"{conv}.weight" for conv in first} == {
        key for key, value in weights.items() if value.dim() == 4 and value.shape[1] == model.in_chans == 3
    }
    assert f"{cfg['classifier']}.weight" in weights


@pytest.mark.parametrize(
    ("name", "settings", "pool_size", "first_conv"),
    [
        ("aa_convnet3", {"img_size": (33, 50), "in_chans": 4}, (4, 6), "layer1.0"),
        ("aa_convnet3", {"augment": (1, 2)}, (4, 4), ("layer1.0.conv_out", "layer1.0.qkv_conv")),
        ("aa_resnet18", {"img_size": (33, 50)}, (2, 2), "conv1"),
        ("sa_xresnet18", {"img_size": 64, "output_stride": 8, "features_only": True}, (8, 8), "stem.0"),
    ],
)
def test_the_default_cfg_of_other_settings(name, settings, pool_size, first_conv):
    with torch.device("meta"):
        cfg = timm.create_model(name, **settings).default_cfg
    assert (cfg["pool_size"], cfg["first_conv"]) == (pool_size, first_conv)


def test_a_second_import_changes_nothing():
    names = dict(bridge.NAMES)
    with warnings.catch_warnings(action="ignore"):  # timm says that names are registered anew
        assert dict(importlib.reload(bridge).NAMES) == names


def test_a_trained_start():
    plain = create_model("resnet18", num_classes=7, image_size=64)
    model = make("aa_resnet18", init_from=plain.state_dict())
    assert torch.equal(model.conv1.weight, plain.conv1.weight)
    assert len(model.transfer.cut) == 6


@pytest.mark.parametrize("feature_cls", ["hook", "getter"])
def test_chosen_stages(feature_cls):
    model = make("aa_resnet18", features_only=True, out_indices=(1, 2), feature_cls=feature_cls).train()
    maps = model(torch.randn(1, 3, 64, 64))
    assert [tuple(found.shape) for found in maps] == [(1, 128, 8, 8), (1, 256, 4, 4)]
    sum(found.sum() for found in maps).backward()
    unused = {name.split(".")[1] for name, parameter in model.named_parameters() if parameter.grad is None}
    assert unused == ({"layer4"} if feature_cls == "hook" else set())


def test_options_and_channels_pass_through():
    model = make("aa_resnet18", in_chans=1, key_ratio=0.5, position="sine", drop_rate=0.5)
    assert model.conv1.in_channels == 1
    assert model.drop_rate == 0.5
    assert model(torch.randn(1, 1, 64, 64)).shape == (1, 7)


def test_drop_path_rate_and_output_stride_pass_through():
    model = make("aa_resnet18", drop_path_rate=0.2, output_stride=16)
    assert model.layer4[1].drop_path_rate == pytest.approx(0.2)
    assert model.feature_info[-1]["reduction"] == 16
    stages = make("ssa_xresnet18", features_only=True, output_stride=8, out_indices=(0, 3))
    assert [tuple(y.shape[2:]) for y in stages(torch.randn(1, 3, 64, 64))] == [(16, 16), (8, 8)]


def test_device_and_dtype():
    model = timm.create_model("aa_resnet18", img_size=64, device="meta", dtype=torch.bfloat16)
    assert {(t.device.type, t.dtype) for t in model.parameters()} == {("meta", torch.bfloat16)}


@pytest.mark.parametrize("name", ["aa_resnet18", "sa_xresnet18"])
def test_attention_is_a_leaf_of_timms_graphs(name):
    assert timm.models.is_notrace_module(Attention)
    model, x = make(name), torch.randn(1, 3, 64, 64)
    graph = timm.layers.create_feature_extractor(model, {"layer2": "map"})
    layers = [path for path, module in model.named_modules() if isinstance(module, Attention) and path < "layer3"]
    assert layers
    assert set(layers) <= {node.target for node in graph.graph.nodes if node.op == "call_module"}
    torch.testing.assert_close(graph(x)["map"], model.forward_intermediates(x)[1][1])


def test_dropout_is_of_the_pooled_features_in_training():
    model, x = make("convnet3", drop_rate=0.9), torch.randn(4, 3, 32, 32)
    assert torch.equal(model(x), model(x))
    features = model.forward_features(x)
    model.train()
    dropped = model.forward_head(features, pre_logits=True)
    assert (dropped == 0).float().mean() > 0.5


def test_timm_can_train_one_step():
    """Layer-wise decay, weight decay groups and data settings, as timm's training script asks for them."""
    from timm.data import resolve_data_config
    from timm.optim import create_optimizer_v2

    model = make("aa_resnet18").train()
    assert resolve_data_config({}, model=model)["input_size"] == (3, 64, 64)
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.9)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {decays[id(p)] for name, p in model.named_parameters() if "key_rel" in name} == {0.0}
    assert decays[id(model.conv1.weight)] == 0.05
    rates = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(model.conv1.weight)] < rates[id(model.layer4[1].conv2.weight)] < rates[id(model.fc.weight)]
    before = model.fc.weight.detach().clone()
    torch.nn.functional.cross_entropy(model(torch.randn(2, 3, 64, 64)), torch.tensor([1, 2])).backward()
    optimizer.step()
    assert not torch.equal(model.fc.weight, before)


def test_saved_weights_load_through_timm(tmp_path):
    model, x = make("aa_resnet18"), torch.randn(1, 3, 64, 64)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    again = timm.create_model("aa_resnet18", num_classes=7, img_size=64, checkpoint_path=str(tmp_path / "weights.pth"))
    assert torch.equal(again.eval()(x), model(x))


def test_a_checkpoint_of_another_image_size_loads_through_timm(tmp_path):
    model = make("aa_resnet18")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "last.pth.tar")
    larger = make("aa_resnet18", img_size=96, checkpoint_path=str(tmp_path / "last.pth.tar"))
    model.set_input_size(96)
    x = torch.randn(1, 3, 96, 96)
    assert torch.equal(larger(x), model(x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"key_ratoi": 0.5}, "unknown option of aa_resnet18: 'key_ratoi'; nearest: 'key_ratio'"),
        ({"image_size": 64}, "unknown option of aa_resnet18: 'image_size'"),
        ({"num_classes": -1}, "num_classes must be at least 1, got -1"),
        ({"pretrained": True}, "aa_resnet18 has no pretrained weights"),
        ({"global_pool": "max", "num_classes": 0}, "unknown global_pool 'max'"),
        ({"global_pool": ""}, "global_pool='' leaves a map, for which num_classes must be 0, got 7"),
    ],
)
def test_bad_input_gets_a_sentence(settings, message):
    with pytest.raises(ValueError, match=message):
        make("aa_resnet18", **settings)


def test_an_unknown_argument_is_a_type_error():
    with pytest.raises(TypeError, match="unknown option of aa_resnet18: 'key_ratoi'; nearest: 'key_ratio'"):
        make("aa_resnet18", key_ratoi=0.5)


def test_without_timm_the_import_says_how_to_install_it():
    code = "import sys; sys.modules['timm'] = None\nimport attnconv.timm"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "this needs timm: pip install 'attnconv[timm]'" in done.stderr
