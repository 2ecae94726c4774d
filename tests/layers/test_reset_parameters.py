"""A trained layer begins again: by its own reset_parameters, and by that of all its modules."""

import copy

import pytest
import torch
from layers.test_transforms import LAYERS, make
from torch import nn
from torch.nn.utils import parametrizations

from attnconv import SimpleSelfAttention
from attnconv.layers.spectral_norm import ConstrainedConv1d, constrained_conv


def on_all_modules(layer):
    layer.apply(lambda module: module.reset_parameters() if hasattr(module, "reset_parameters") else None)


def alone(layer):
    layer.reset_parameters()


def trained(name):
    layer = make(name)[0].train()
    with torch.no_grad():
        for tensor in (*layer.parameters(), *layer.buffers()):
            tensor.add_(100)
    return layer


@pytest.mark.parametrize("reset", [alone, on_all_modules])
@pytest.mark.parametrize("name", LAYERS)
def test_nothing_of_the_training_is_left(name, reset):
    layer = trained(name)
    parameters = list(layer.parameters())
    reset(layer)
    assert all(one is other for one, other in zip(layer.parameters(), parameters, strict=True))  # for the optimiser
    for key, tensor in layer.state_dict().items():
        assert tensor.abs().max() < 10, key
    if hasattr(layer, "gamma"):
        assert layer.gamma.item() == 0


@pytest.mark.parametrize("name", LAYERS)
def test_weights_are_those_of_a_new_layer(name):
    """The same draws in the same order, beside what a constructor draws besides."""
    layer = trained(name)
    for module in layer.modules():
        if isinstance(module, ConstrainedConv1d):
            torch.manual_seed(1)
            new = constrained_conv(
                module.in_channels,
                module.out_channels,
                *module.kernel_size,
                spectral_norm=True,
                symmetric=name == "symmetric",
                bias=name == "sagan whole",
            )
            torch.manual_seed(1)
            module.reset_parameters()
            torch.testing.assert_close(module.state_dict(), new.state_dict(), rtol=0, atol=0)
    spread = {key: tensor.std() for key, tensor in make(name)[0].named_parameters() if tensor.numel() > 30}
    layer.reset_parameters()
    for key, tensor in layer.named_parameters():
        if key in spread:
            torch.testing.assert_close(tensor.std(), spread[key], rtol=0.5, atol=0)


@pytest.mark.parametrize("name", ["sagan", "sagan whole", "symmetric"])
def test_the_divisor_is_that_of_the_new_weight(name):
    layer = trained(name)
    layer.reset_parameters()
    for conv in layer.children():
        assert torch.linalg.matrix_norm(conv.weight[:, :, 0], 2).item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("name", LAYERS)
def test_from_the_meta_device(name):
    layer = make(name)[0].to("meta").to_empty(device="cpu")
    with torch.no_grad():
        for tensor in layer.state_dict().values():
            tensor.fill_(torch.nan)
    layer.reset_parameters()
    assert all(tensor.isfinite().all() for tensor in layer.state_dict().values())


@pytest.mark.parametrize("constraint", [parametrizations.weight_norm, parametrizations.orthogonal])
def test_under_another_constraint(constraint):
    conv = constraint(constrained_conv(6, 6, spectral_norm=False))
    before = conv.weight.detach().clone()
    conv.reset_parameters()
    assert conv.weight.isfinite().all()
    assert not torch.equal(conv.weight, before)


def test_a_convolution_inside_of_another_module():
    layer = SimpleSelfAttention(6)
    layer.conv = nn.Sequential(nn.Conv1d(6, 6, 1), nn.Dropout(0.1))
    nn.init.constant_(layer.conv[0].weight, 100)
    layer.reset_parameters()
    assert layer.conv[0].weight.abs().max() < 1


@pytest.mark.parametrize("name", ["2d", "sagan"])
def test_a_copy_keeps_its_own(name):
    layer = trained(name)
    again = copy.deepcopy(layer)
    again.reset_parameters()
    assert all(tensor.abs().max() > 50 for tensor in layer.state_dict().values())


def test_without_spectral_norm():
    conv = constrained_conv(64, 64, spectral_norm=False)
    nn.init.zeros_(conv.weight)
    conv.reset_parameters()
    assert conv.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.1)
