"""SimpleSelfAttention calls its conv wherever a tool has changed it: adapters, pruning, weight norm, shards, hooks."""

import copy

import oracles
import pytest
import torch
import torch.distributed
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import parametrizations, prune
from torch.utils.flop_counter import FlopCounterMode

from attnconv import SimpleSelfAttention
from attnconv.layers.attention import set_recompute

SETTINGS = [{}, {"normalize": True}, {"symmetric": True}, {"spectral_norm": False}]
MAPS = [(3, 5), (1, 2)]  # more positions than channels, and fewer


def layer_and_input(map_size=(3, 5), **settings):
    torch.manual_seed(0)
    layer = SimpleSelfAttention(6, **settings).double().eval()
    nn.init.constant_(layer.gamma, 0.7)
    return layer, torch.randn(2, 6, *map_size, dtype=torch.float64)


class Adapted(nn.Module):
    """A convolution and something of low rank beside it, as LoRA has it."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv
        self.down = nn.Conv1d(6, 2, 1, bias=False, dtype=torch.float64)
        self.up = nn.Conv1d(2, 6, 1, bias=False, dtype=torch.float64)

    def forward(self, x):
        return self.conv(x) + self.up(self.down(x))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("map_size", MAPS)
def test_another_module_in_its_place(settings, map_size):
    layer, x = layer_and_input(map_size, **settings)
    layer.conv = Adapted(layer.conv)
    weight = layer.conv.conv.weight + torch.einsum("orx,rix->oix", layer.conv.up.weight, layer.conv.down.weight)
    expected = oracles.bilinear_attention(x, weight, 0.7, normalize=layer.normalize)
    y = layer(x)
    torch.testing.assert_close(y.detach(), torch.from_numpy(expected))
    y.square().sum().backward()
    assert layer.conv.up.weight.grad.abs().max() > 0


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("map_size", MAPS)
def test_what_hooks_see_changes_no_number(settings, map_size):
    layer, x = layer_and_input(map_size, **settings)
    plain, x_plain = copy.deepcopy(layer).train(), x.clone().requires_grad_()
    calls = []
    layer.conv.register_forward_hook(lambda _, inputs, h: calls.append((inputs[0].shape, h.shape)))
    layer.train()
    x.requires_grad_()
    for net, given in ((layer, x), (plain, x_plain)):
        net(given).square().sum().backward()
    assert calls == [((2, 6, x[0, 0].numel()),) * 2]
    torch.testing.assert_close(x.grad, x_plain.grad)
    for (name, one), other in zip(layer.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)
    torch.testing.assert_close(layer.state_dict(), plain.state_dict(), rtol=0, atol=0)  # one step of power iteration


def test_the_module_is_called_once_where_attention_is_computed_again():
    layer, x = layer_and_input()
    calls = []
    layer.conv.register_forward_hook(lambda *_: calls.append(1))
    set_recompute(layer.train())
    layer(x.requires_grad_()).sum().backward()
    assert calls == [1]


def trained(layer, x, steps=3):
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()
    return layer


def test_pruned_weights_stay_zero_and_the_others_learn():
    layer, x = layer_and_input(spectral_norm=False)
    prune.l1_unstructured(layer.conv, "weight", amount=0.5)
    before = layer.conv.weight.detach().clone()
    trained(layer.train(), x)
    layer(x)
    assert torch.equal(layer.conv.weight == 0, before == 0)
    assert not torch.equal(layer.conv.weight, before)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, parametrizations.weight_norm])
def test_weight_norm_trains(norm):
    layer, x = layer_and_input(spectral_norm=False)
    norm(layer.conv)
    before = layer.conv.weight.detach().clone()
    trained(layer.train(), x)
    y = layer(x).detach()
    assert not torch.equal(layer.conv.weight, before)
    expected = oracles.bilinear_attention(x, layer.conv.weight, layer.gamma.item())
    torch.testing.assert_close(y, torch.from_numpy(expected))


def test_hooks_on_all_modules_do_not_count():
    """A FLOP counter has them, and has to see the products of the order that runs without it."""
    layer, _ = layer_and_input()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(torch.randn(1, 6, 10, 10, dtype=torch.float64))
    assert counter.get_total_flops() == 2 * (2 * 100 * 6**2 + 6**3)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_shown_weights_are_those_of_the_module(settings):
    layer, x = layer_and_input(**settings)
    expected = layer.attention_weights(x[:1])((1, 2))
    layer.conv.register_forward_hook(lambda *_: None)
    torch.testing.assert_close(layer.attention_weights(x[:1])((1, 2)), expected)
    layer.conv.register_forward_hook(lambda _, __, h: 2 * h)
    torch.testing.assert_close(layer.attention_weights(x[:1])((1, 2)), 2 * expected)


def test_compiled_in_one_graph():
    torch.compiler.reset()
    layer, x = layer_and_input()
    layer.conv = Adapted(layer.conv)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="eager")(x), layer(x))


def test_half_precision_and_channels_last():
    layer, x = layer_and_input()
    layer.conv.register_forward_hook(lambda *_: None)
    layer, x = layer.bfloat16(), x.bfloat16().to(memory_format=torch.channels_last)
    y = layer(x)
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("sharded", ["conv", "layer"])
def test_sharded(sharded, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        layer, x = layer_and_input()
        expected = layer(x).detach()
        mesh = init_device_mesh("cpu", (1,))
        fully_shard(layer.conv if sharded == "conv" else layer, mesh=mesh)
        y = layer(x)
        torch.testing.assert_close(y.detach(), expected)
        y.square().sum().backward()
        assert all(p.grad is not None for p in layer.parameters())
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("normalize", [False, True])
def test_a_mask_where_conv_is_called(normalize):
    layer, x = SimpleSelfAttention(4, normalize=normalize).eval(), torch.randn(2, 4, 3, 5)
    torch.nn.init.ones_(layer.gamma)
    mask = torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(1)) > 0.4
    expected, row = layer(x, mask=mask), layer.attention_weights(x, mask)((1, 2))
    layer.conv.register_forward_hook(lambda *_: None)
    torch.testing.assert_close(layer(x, mask=mask), expected)
    torch.testing.assert_close(layer.attention_weights(x, mask)((1, 2)), row)
    assert not torch.allclose(layer(x), expected)
