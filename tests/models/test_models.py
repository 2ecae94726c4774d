"""The registry, and every registered network."""

import pytest
import torch
from torch import nn

from attnconv import AugmentedConv2d
from attnconv.models import create_model, list_models
from attnconv.models.registry import model_options


def count(model):
    return sum(p.numel() for p in model.parameters())


def augmented(model):
    return [layer for layer in model.modules() if isinstance(layer, AugmentedConv2d)]


def test_list_models_matches_shell_patterns():
    assert list_models() == sorted(list_models())
    assert list_models("*convnet3") == ["aa_convnet3", "convnet3"]
    assert list_models("aa_*") == ["aa_convnet3"]
    assert list_models("nothing") == []


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("size", [(9, 15), (16, 16)])
def test_every_network_runs_forward_and_backward(name, size):
    """At an odd, non-square size below image_size, and at image_size."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=7, in_channels=2, image_size=16)
    y = model(torch.randn(2, 2, *size))
    y.square().mean().backward()
    assert y.shape == (2, 7)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", list_models())
def test_every_network_compiles_and_exports(name):
    model = create_model(name, num_classes=7, image_size=16).eval()
    x = torch.randn(2, 3, 16, 11)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))


def test_convnet3_has_the_published_widths():
    model = create_model("convnet3", num_classes=100, image_size=32)
    convs = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size, c.padding) for c in convs] == [
        (3, 64, (3, 3), (1, 1)),
        (64, 128, (3, 3), (1, 1)),
        (128, 192, (3, 3), (1, 1)),
    ]
    # convolutions, two numbers a channel of batch norm, the linear layer
    assert count(model) == 9 * (3 * 64 + 64 * 128 + 128 * 192) + 2 * (64 + 128 + 192) + 192 * 100 + 100


def test_aa_convnet3_augments_the_second_and_third_layer():
    model = create_model("aa_convnet3", num_classes=10, image_size=(32, 24))
    layers = augmented(model)
    assert [layer.feat_size for layer in layers] == [(16, 12), (8, 6)]
    assert [(layer.key_channels, layer.value_channels, layer.num_heads) for layer in layers] == [
        (64, 32, 4),
        (96, 48, 4),
    ]


def test_all_three_layers_can_be_augmented():
    first, *others = augmented(create_model("aa_convnet3", num_classes=10, image_size=32, augment=(1, 2, 3)))
    assert [layer.feat_size for layer in (first, *others)] == [(32, 32), (16, 16), (8, 8)]
    assert (first.key_channels, first.value_channels) == (64, 16)  # at least 16 key channels a head


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: create_model("convnet4", num_classes=2, image_size=8),
            "unknown model 'convnet4'; nearest: 'convnet3'",
        ),
        (
            lambda: create_model("aa_convnet3", num_classes=2, image_size=8, augmnt=(1,)),
            "unknown option of aa_convnet3: 'augmnt'; nearest: 'augment'",
        ),
        (lambda: create_model("convnet3", num_classes=2, image_size=8, augment=(1,)), "unknown option of convnet3"),
        (
            lambda: create_model("aa_convnet3", num_classes=2, image_size=8, augment=(4,)),
            "layers among 1, 2 and 3, got",
        ),
        (
            lambda: create_model("aa_convnet3", num_classes=2, image_size=8, augment=2),
            "must be a list of layers.* got 2",
        ),
        (lambda: create_model("convnet3", num_classes=0, image_size=8), "num_classes must be at least 1, got 0"),
        (lambda: create_model("convnet3", num_classes=2, image_size=(8, 8, 8)), "image_size must be one integer or 2"),
        (
            lambda: create_model("convnet3", num_classes=2, image_size=8)(torch.zeros(1, 3, 7, 9)),
            r"at least 8 x 8 pixels, got \(7, 9\)",
        ),
        (
            lambda: create_model("aa_convnet3", num_classes=2, image_size=8)(torch.zeros(1, 3, 16, 16)),
            r"the output map is \(8, 8\), but the position tables cover feat_size=\(4, 4\)",
        ),
    ],
)
def test_bad_input_gets_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_options_and_their_defaults():
    assert model_options("convnet3") == {}
    assert model_options("aa_convnet3")["augment"] == (2, 3)
