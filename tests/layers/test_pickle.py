"""Whole layers and networks through pickle: torch.save, and what starts processes."""

import copy
import io
import pickle

import pytest
import torch
import torch.multiprocessing
from layers.test_transforms import LAYERS, make
from torch import nn
from torch.nn.utils import parametrize

from attnconv import SelfAttention, SimpleSelfAttention
from attnconv.layers.spectral_norm import ConstrainedConv1d
from attnconv.models import create_model


def through_pickle(model):
    return pickle.loads(pickle.dumps(model))


def through_torch_save(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def step(model, x):
    """Three steps of training; each output."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    outputs = []
    for _ in range(3):
        optimizer.zero_grad()
        outputs.append(model(x))
        outputs[-1].square().mean().backward()
        optimizer.step()
    return outputs


@pytest.mark.parametrize("way", [through_pickle, through_torch_save, copy.deepcopy])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_trains_on_with_the_same_numbers(name, way):
    layer, x = make(name)
    step(layer.train(), x)
    state = torch.get_rng_state()
    again = way(layer)
    assert torch.equal(torch.get_rng_state(), state)
    assert type(again).__name__ == type(layer).__name__
    assert again.state_dict().keys() == layer.state_dict().keys()
    for one, other in zip(step(layer, x), step(again, x), strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(again.state_dict(), layer.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["sa_xresnet18", "ssa_xresnet18", "aa_convnet3"])
def test_a_network(name):
    model = create_model(name, num_classes=3, image_size=32).eval()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(through_torch_save(model)(x), model(x))


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*")
def test_an_old_checkpoint_loads_into_what_came_out_of_pickle():
    old = nn.utils.spectral_norm(nn.Conv1d(6, 6, 1, bias=False))
    state = {f"conv.{name}": tensor for name, tensor in old.state_dict().items()} | {"gamma": torch.ones(1)}
    layers = SimpleSelfAttention(6).eval(), through_pickle(SimpleSelfAttention(6)).eval()
    for layer in layers:
        layer.load_state_dict(state)
    x = torch.randn(2, 6, 3, 5)
    assert torch.equal(*(layer(x) for layer in layers))


def test_two_that_share_a_class_no_longer_do():
    """A deepcopy shares the class that torch made, and removing the constraint of one strips the other."""
    layer = SimpleSelfAttention(6)
    again = through_pickle(layer)
    parametrize.remove_parametrizations(again.conv, "weight")
    assert parametrize.is_parametrized(layer.conv)
    assert type(again.conv) is ConstrainedConv1d
    assert torch.equal(through_pickle(again).conv.weight, again.conv.weight)


def test_a_constraint_of_the_users_own_is_kept():
    conv = SelfAttention(6, spectral_norm=False).value
    parametrize.register_parametrization(conv, "weight", nn.Tanh())
    again = through_pickle(conv)
    assert torch.equal(again.weight, conv.weight)
    assert again.state_dict().keys() == conv.state_dict().keys()


def run_in_a_process(rank, model, x, expected):
    assert torch.equal(model(x), expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [SelfAttention, SimpleSelfAttention])
def test_a_layer_goes_to_a_new_process(kind):
    layer = kind(6).eval()
    nn.init.ones_(layer.gamma)
    x = torch.randn(2, 6, 3, 5)
    torch.multiprocessing.spawn(run_in_a_process, (layer, x, layer(x).detach()), nprocs=1)
