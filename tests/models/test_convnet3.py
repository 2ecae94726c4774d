"""The three-layer network."""

import pytest
import torch
from torch import nn

from attnconv import AugmentedConv2d
from attnconv.models import create_model


def count(model):
    return sum(p.numel() for p in model.parameters())


def augmented(model):
    return [layer for layer in model.modules() if isinstance(layer, AugmentedConv2d)]


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
            lambda: create_model("aa_convnet3", num_classes=2, image_size=8, augment=(4,)),
            "a list of stages among 1, 2 and 3",
        ),
        (lambda: create_model("aa_convnet3", num_classes=2, image_size=8, augment=["2"]), "a list of stages.* got"),
        (lambda: create_model("aa_convnet3", num_classes=2, image_size=8, augment=2), "a list of stages.* got 2"),
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
