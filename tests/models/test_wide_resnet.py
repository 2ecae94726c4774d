"""Wide residual networks: shapes, shortcuts, and where the attention is."""

import pytest
import torch
from torch import nn

from attnconv import AugmentedConv2d
from attnconv.models import create_model
from attnconv.models.wide_resnet import PadShortcut


def augmented(model):
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, AugmentedConv2d)}


def on_meta(name, **settings):
    with torch.device("meta"):
        return create_model(name, **{"num_classes": 100, "image_size": 32, **settings})


def test_the_plain_network_is_the_published_one():
    model = on_meta("wide_resnet28_10")
    blocks = [*model.layer1, *model.layer2, *model.layer3]
    assert [block.conv1.out_channels for block in blocks] == [160] * 4 + [320] * 4 + [640] * 4
    assert [block.conv1.stride[0] for block in blocks] == [1, 1, 1, 1, 2, 1, 1, 1, 2, 1, 1, 1]
    assert [name for name, block in enumerate(blocks) if block.shortcut is not None] == [0, 4, 8]
    assert not [name for name, _ in model.named_parameters() if "conv" in name and name.endswith("bias")]


def test_pad_shortcut_averages_and_adds_channels_of_zeros():
    x = torch.arange(2 * 3 * 5.0).reshape(1, 2, 3, 5)
    y = PadShortcut(2, 5, stride=2)(x)
    assert y.shape == (1, 5, 2, 3)
    for channel in range(2):
        for i in range(2):
            for j in range(3):
                window = x[0, channel, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
                assert y[0, channel, i, j] == window.mean()
    assert not y[:, 2:].any()


def test_a_block_is_preactivated():
    torch.manual_seed(0)
    block = create_model("wide_resnet10_1", num_classes=2, image_size=9, shortcut="conv").layer2[0].eval()
    x = torch.randn(2, 16, 9, 7)
    y = block.bn1(x).relu()
    expected = block.conv2(block.bn2(block.conv1(y)).relu()) + block.shortcut(y)
    torch.testing.assert_close(block(x), expected)


def test_the_first_convolution_of_every_block_is_augmented():
    layers = augmented(on_meta("aa_wide_resnet28_10", image_size=(32, 25)))
    assert list(layers) == [f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(4)]
    assert [layer.feat_size for layer in layers.values()] == [(32, 25)] * 4 + [(16, 13)] * 4 + [(8, 7)] * 4
    widths = [(layer.key_channels, layer.value_channels) for layer in layers.values()]
    assert widths == [(160, 16)] * 4 + [(160, 32)] * 4 + [(160, 64)] * 4
    assert {(layer.num_heads, layer.position, layer.attention_pool) for layer in layers.values()} == {
        (8, "relative", 1)
    }
    assert not [layer for layer in layers.values() if layer.conv_out.bias is not None]


def test_stages_can_be_chosen():
    assert list(augmented(on_meta("aa_wide_resnet10_1", stages=[3]))) == ["layer3.0.conv1"]


def test_without_augmented_stages_it_is_the_plain_network():
    torch.manual_seed(0)
    plain = create_model("wide_resnet10_2", num_classes=5, image_size=16).eval()
    twin = create_model("aa_wide_resnet10_2", num_classes=5, image_size=16, stages=()).eval()
    twin.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 11, 16)
    assert torch.equal(twin(x), plain(x))


@pytest.mark.parametrize("position", ["relative", "sine", "coordconv", None])
def test_position_encodings(position):
    model = create_model("aa_wide_resnet10_1", num_classes=5, image_size=12, position=position, num_heads=2)
    assert {layer.position for layer in augmented(model).values()} == {position}
    assert model(torch.randn(2, 3, 9, 12)).shape == (2, 5)


def test_dropout_is_between_the_convolutions():
    model = create_model("wide_resnet10_1", num_classes=5, image_size=12, dropout=0.5)
    assert {block.p for block in model.modules() if isinstance(block, nn.Dropout)} == {0.5}
    x = torch.randn(2, 3, 9, 12)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_the_seed_s_network_augments_every_convolution_and_shortcut():
    model = on_meta("seed_aa_wide_resnet28_10", image_size=(32, 25))
    layers = augmented(model)
    assert len(layers) == 1 + 3 * 4 * 2 + 3
    assert {name for name in layers if name.endswith("shortcut")} == {f"layer{i}.0.shortcut" for i in (1, 2, 3)}
    settings = {(layer.num_heads, layer.qkv_kernel_size, layer.qkv_conv.bias is None) for layer in layers.values()}
    assert settings == {(4, (3, 3), False)}
    assert all(layer.key_channels == 2 * layer.out_channels for layer in layers.values())
    assert all(5 * layer.value_channels == layer.out_channels for layer in layers.values())
    assert model.conv1.out_channels == 20
    assert [stage[0].conv1.out_channels for stage in (model.layer1, model.layer2, model.layer3)] == [200, 400, 600]
    # The second convolution of a block has the stride, so the first still sees the larger map.
    assert [model.layer2[0].conv1.feat_size, model.layer2[0].conv2.feat_size] == [(32, 25), (16, 13)]
