"""The Wide-ResNet of Attention-Augmented-Conv2d: any size, drawn as its program drew it, with its heads if asked."""

import math

import pytest
import torch
from torch import nn

from attnconv import checks
from attnconv.layers import AugmentedConv2d
from attnconv.models import create_model


def network(name="seed_aa_wide_resnet10_2", **options):
    torch.manual_seed(0)
    return create_model(name, num_classes=10, image_size=16, **options)


def test_depth_and_width_are_any():
    with torch.device("meta"):
        model = create_model("seed_aa_wide_resnet22_3", num_classes=5, image_size=(20, 12))
    assert [len(stage) for stage in (model.layer1, model.layer2, model.layer3)] == [3, 3, 3]
    assert [stage[0].conv1.out_channels for stage in (model.layer1, model.layer2, model.layer3)] == [60, 120, 180]
    assert model.fc.in_features == 180


@pytest.mark.parametrize(
    ("options", "name", "message"),
    [
        ({}, "seed_aa_wide_resnet11_1", r"the depth of a wide_resnet must be 6n \+ 4; got 11, nearest: 10 or 16"),
        ({"head_layout": "old"}, "seed_aa_wide_resnet10_1", "unknown head_layout 'old'; known: correct, legacy"),
    ],
)
def test_bad_input(options, name, message):
    with pytest.raises(checks.InputError, match=message):
        network(name, **options)


def test_convolutions_are_drawn_from_xavier_s_uniform():
    convs = [module for module in network().modules() if isinstance(module, nn.Conv2d)]
    assert len(convs) == 3 * (1 + 6 + 3)
    for conv in convs:
        window = math.prod(conv.kernel_size)
        bound = math.sqrt(6 / ((conv.in_channels + conv.out_channels) * window))
        largest = conv.weight.abs().max().item()
        assert largest <= bound
        # Of n numbers the largest falls below (1 - 15 / n) of the bound with probability e**-15.
        assert largest > bound * (1 - 15 / conv.weight.numel())
        assert not conv.bias.any()


def test_the_classifier_is_drawn_with_a_deviation_of_a_hundredth():
    fc = network("seed_aa_wide_resnet10_10").fc
    assert fc.weight.numel() == 6000
    assert fc.weight.std().item() == pytest.approx(0.010, rel=5 / math.sqrt(2 * 6000))
    assert not fc.bias.any()


def test_the_tables_are_drawn_from_a_standard_normal():
    layers = [module for module in network().modules() if isinstance(module, AugmentedConv2d)]
    tables = torch.cat([table.detach().flatten() for layer in layers for table in layer.tables])
    assert tables.std().item() == pytest.approx(1, rel=5 / math.sqrt(2 * len(tables)))
    assert tables.mean().item() == pytest.approx(0, abs=5 / math.sqrt(len(tables)))


def test_the_last_batch_norm_forgets_nine_tenths():
    model = network()
    momenta = {name: m.momentum for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert momenta.pop("bn") == 0.9
    assert set(momenta.values()) == {0.1}


def test_the_head_layout_reaches_every_layer():
    one, other = network(), network(head_layout="legacy")
    layers = [module for module in other.modules() if isinstance(module, AugmentedConv2d)]
    assert {layer.head_layout for layer in layers} == {"legacy"}
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert not torch.allclose(one.eval()(x), other.eval()(x))
