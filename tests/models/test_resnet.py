"""Residual networks: torchvision's weights and outputs, and where the attention is."""

from collections import Counter

import pytest
import torch
import torchvision

from attnconv import AugmentedConv2d
from attnconv.models import create_model
from attnconv.models.resnet import DEPTHS


def augmented(model):
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, AugmentedConv2d)}


def on_meta(name, **settings):
    with torch.device("meta"):
        return create_model(name, **{"num_classes": 1000, "image_size": 224, **settings})


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvision_s_checkpoints_give_torchvision_s_outputs(name):
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, num_classes=11).eval()
    ours = create_model(name, num_classes=11, image_size=64).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 45, 64)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("depth", DEPTHS)
def test_every_depth_has_torchvision_s_tensors(depth):
    with torch.device("meta"):
        theirs = torchvision.models.get_model(f"resnet{depth}")
    shapes = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert {name: tensor.shape for name, tensor in on_meta(f"resnet{depth}").state_dict().items()} == shapes


def test_bottlenecks_have_their_3x3_augmented_in_the_last_three_stages():
    layers = augmented(on_meta("aa_resnet50", image_size=(224, 200)))
    assert list(layers) == [
        f"layer{stage}.{i}.conv2" for stage, blocks in ((2, 4), (3, 6), (4, 3)) for i in range(blocks)
    ]
    assert [layer.feat_size for layer in layers.values()] == [(28, 25)] * 4 + [(14, 13)] * 6 + [(7, 7)] * 3
    assert [layer.attention_pool for layer in layers.values()] == [2] * 4 + [1] * 9
    widths = [(layer.key_channels, layer.value_channels) for layer in layers.values()]
    assert widths == [(160, 8)] * 4 + [(160, 24)] * 6 + [(160, 48)] * 3
    assert [name for name, layer in layers.items() if layer.stride == (2, 2)] == [
        f"layer{stage}.0.conv2" for stage in (2, 3, 4)
    ]
    assert not [layer for layer in layers.values() if layer.qkv_conv.bias is not None]


def test_basic_blocks_have_their_first_3x3_augmented():
    layers = augmented(on_meta("aa_resnet34"))
    assert list(layers) == [
        f"layer{stage}.{i}.conv1" for stage, blocks in ((2, 4), (3, 6), (4, 3)) for i in range(blocks)
    ]
    assert {layer.value_channels for layer in layers.values()} == {32, 64, 128}


def test_the_maps_are_those_that_feat_size_says():
    """At image_size, odd on both sides, attention runs on maps that fill the tables."""
    model, sizes = on_meta("aa_resnet18", image_size=(77, 50)), {}
    for name, layer in augmented(model).items():
        layer.register_forward_hook(lambda layer, _, y, name=name: sizes.update({name: tuple(y.shape[2:])}))
    model(torch.empty(2, 3, 77, 50, device="meta"))
    assert sizes == {name: layer.feat_size for name, layer in augmented(model).items()}
    assert set(sizes.values()) == {(10, 7), (5, 4), (3, 2)}


def test_a_larger_image_is_refused_with_the_way_out():
    model = create_model("aa_resnet18", num_classes=2, image_size=32)
    with pytest.raises(ValueError, match=r"the output map is \(8, 8\).*call layer.resize_feat_size\(\(8, 8\)\)"):
        model(torch.zeros(2, 3, 64, 64))


def test_stages_and_pooling_can_be_chosen():
    layers = augmented(on_meta("aa_resnet18", stages=[3, 4]))
    assert {name[:6]: layer.attention_pool for name, layer in layers.items()} == {"layer3": 2, "layer4": 1}
    layers = augmented(on_meta("aa_resnet18", pool_first=False))
    assert {layer.attention_pool for layer in layers.values()} == {1}


def test_value_ratio_1_leaves_no_convolution():
    layers = augmented(on_meta("aa_resnet50", key_ratio=1.0, value_ratio=1.0))
    assert {layer.conv_out for layer in layers.values()} == {None}


@pytest.mark.parametrize("position", ["relative", "sine", "coordconv", None])
def test_position_encodings(position):
    model = create_model("aa_resnet18", num_classes=5, image_size=40, position=position)
    assert {layer.position for layer in augmented(model).values()} == {position}
    assert model(torch.randn(2, 3, 33, 40)).shape == (2, 5)


def test_without_augmented_stages_it_is_the_plain_network():
    torch.manual_seed(0)
    plain = create_model("resnet18", num_classes=5, image_size=32).eval()
    twin = create_model("aa_resnet18", num_classes=5, image_size=32, stages=()).eval()
    twin.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 32, 19)
    assert torch.equal(twin(x), plain(x))


@pytest.mark.parametrize(("name", "width"), [("resnet18", 128), ("wide_resnet10_4", 128)])
def test_convolutions_are_drawn_for_their_outputs(name, width):
    """He-normal by the number of outputs, as torchvision's and the Wide-ResNet's own code."""
    torch.manual_seed(0)
    conv = create_model(name, num_classes=5, image_size=32).layer2[0].conv1
    assert conv.weight.shape[:2] == (width, width // 2)
    assert conv.weight.std().item() == pytest.approx((2 / (9 * width)) ** 0.5, rel=0.02)


@pytest.mark.parametrize("name", ["aa_resnet18", "aa_resnet50", "ssa_xresnet18"])
def test_no_module_runs_twice_in_a_forward(name):
    model, calls = create_model(name, num_classes=5, image_size=32).eval(), Counter()
    for module in model.modules():
        module.register_forward_hook(lambda module, *_: calls.update([module]))
    model(torch.randn(1, 3, 32, 32))
    assert max(calls.values()) == 1


@pytest.mark.parametrize("name", ["se_resnet18", "se_resnet50"])
def test_squeeze_excitation_stands_before_the_addition(name):
    torch.manual_seed(0)
    block = create_model(name, num_classes=5, image_size=32).layer2[0].eval()
    x = torch.randn(2, block.conv1.in_channels, 9, 7)
    inside = {}
    block.se.register_forward_hook(lambda _, inputs, y: inside.update(x=inputs[0], y=y))
    out = block(x)
    last = block.bn3 if name == "se_resnet50" else block.bn2
    assert inside["x"].shape[1] == last.num_features
    torch.testing.assert_close(out, (inside["y"] + block.downsample(x)).relu())
    assert block.se.fc1.out_channels == last.num_features // 16
