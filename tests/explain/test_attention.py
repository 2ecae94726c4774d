"""attention_maps: the weights that the layers apply, for one position of the image."""

import pytest
import torch
from torch import nn

from attnconv import AugmentedConv2d, SelfAttention
from attnconv.explain import attention_figure, attention_maps
from attnconv.models import create_model


def network():
    torch.manual_seed(0)
    return create_model("aa_convnet3", num_classes=10, image_size=16, augment=(1, 2, 3))


def test_one_map_for_each_layer_and_head():
    maps = attention_maps(network(), torch.randn(3, 16, 12), (5, 11))
    assert [m.layer for m in maps] == ["layer1.0", "layer2.0", "layer3.0"]
    assert [tuple(m.weights.shape) for m in maps] == [(4, 16, 12), (4, 8, 6), (4, 4, 3)]
    assert [m.query for m in maps] == [(5, 11), (2, 5), (1, 2)]


def test_each_head_sums_to_one():
    for found in attention_maps(network(), torch.randn(3, 16, 12), (0, 0)):
        torch.testing.assert_close(found.weights.sum((1, 2)), torch.ones(4))


@pytest.mark.parametrize("pool", [1, 2])
def test_the_map_applied_to_v_is_what_the_layer_adds(pool):
    torch.manual_seed(0)
    layer = AugmentedConv2d(
        3, 4, 3, padding=1, key_channels=6, value_channels=4, num_heads=2, feat_size=9, attention_pool=pool
    )
    captured = []
    layer.attn_out.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
    image = torch.randn(3, 6, 8)
    (found,) = attention_maps(layer, image, (3, 5))
    _, _, v = layer.queries_keys_values(image[None])
    expected = torch.einsum("nhw,nhwe->ne", found.weights, v[0]).flatten()
    torch.testing.assert_close(captured[0][0, :, found.query[0], found.query[1]], expected)


def test_sagan_attention_is_explained_too():
    torch.manual_seed(0)
    layer = SelfAttention(6)
    nn.init.constant_(layer.gamma, 0.5)
    image = torch.randn(6, 3, 5)
    (found,) = attention_maps(layer, image, (2, 4))
    value = layer.eval().value(image.flatten(1)[None])[0].unflatten(1, (3, 5))
    expected = 0.5 * torch.einsum("hw,chw->c", found.weights[0], value) + image[:, 2, 4]
    torch.testing.assert_close(layer(image[None])[0, :, 2, 4], expected)


def test_the_network_is_left_as_it_was():
    model = network().train()
    model.layer2.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attention_maps(model, torch.randn(3, 16, 16), (0, 0))
    assert model.training
    assert not model.layer2.training
    assert not any(m._forward_pre_hooks for m in model.modules())
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("model", "shape", "point", "message"),
    [
        (nn.Conv2d(3, 4, 1), (3, 8, 8), (0, 0), "Conv2d has no attention layer to explain"),
        (SelfAttention(3), (3, 8, 9), (8, 0), r"the image of 8 x 9 pixels, got \(8, 0\)"),
        (SelfAttention(3), (3, 8, 9), (0, -1), r"the image of 8 x 9 pixels, got \(0, -1\)"),
        (SelfAttention(3), (1, 3, 8, 9), (0, 0), r"image must be \(channels, rows, columns\), got \(1, 3, 8, 9\)"),
    ],
)
def test_bad_input_gets_a_sentence(model, shape, point, message):
    with pytest.raises(ValueError, match=message):
        attention_maps(model, torch.zeros(shape), point)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_figure_has_a_panel_for_each_layer_and_head(channels):
    model = create_model("aa_convnet3", num_classes=10, in_channels=channels, image_size=16)
    image = torch.rand(channels, 16, 16)
    figure = attention_figure(image, attention_maps(model, image, (3, 4)), (3, 4))
    assert len(figure.axes) == 2 * (1 + 4)
    shown = figure.axes[1].images[0].get_array()
    assert shown.shape == (8, 8)
    assert shown.sum() == pytest.approx(1, rel=1e-5)
