"""Attention computed again in the backward pass: the same gradients, with less kept."""

import pytest
import torch
from torch import nn

from attnconv import AugmentedConv2d, SelfAttention, SimpleSelfAttention
from attnconv.layers.attention import set_recompute


def augmented():
    return AugmentedConv2d(
        4, 6, 3, padding=1, key_channels=4, value_channels=4, num_heads=2, feat_size=(5, 7), impl="eager"
    )


def opened(layer):
    nn.init.constant_(layer.gamma, 0.7)
    return layer


LAYERS = {
    "augmented": augmented,
    "sagan": lambda: opened(SelfAttention(4)),
    "sagan whole": lambda: opened(SelfAttention(4, value_ratio=1 / 2, pool=2, bias=True)),
    "simple": lambda: opened(SimpleSelfAttention(4)),
}


def gradients(layer, x):
    """Of one training step: the output, all gradients, the buffers afterwards, and the bytes kept for the backward."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (kept.append(t.numel() * t.element_size()), t)[1], lambda t: t
    ):
        y = layer(x)
    y.square().sum().backward()
    return y, [p.grad for p in layer.parameters()], list(layer.buffers()), sum(kept)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_the_same_and_less_is_kept(name):
    results = []
    for recompute in (False, True):
        torch.manual_seed(0)
        layer = LAYERS[name]()
        assert set_recompute(nn.Sequential(nn.Identity(), layer), recompute) == 1
        x = torch.randn(2, 4, 5, 7, requires_grad=True)
        results.append((*gradients(layer, x), x.grad))
    (y, plain, buffers, kept, grad), (y2, again, buffers2, kept2, grad2) = results
    assert torch.equal(y, y2)
    assert torch.equal(grad, grad2)
    assert plain
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    # Spectral norm's power iteration has gone one step in both.
    assert all(torch.equal(a, b) for a, b in zip(buffers, buffers2, strict=True))
    assert kept2 < kept


def test_evaluation_and_other_layers_are_left_alone():
    model = nn.Sequential(nn.Conv2d(4, 4, 1), augmented()).eval()
    assert set_recompute(model[0]) == 0
    x = torch.randn(2, 4, 5, 7)
    before = model(x)
    assert set_recompute(model) == 1
    assert torch.equal(model(x), before)
    with torch.no_grad():
        assert torch.equal(model.train()(x), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_under_autocast(dtype):
    torch.manual_seed(0)
    layer, x = augmented(), torch.randn(2, 4, 5, 7)
    found = []
    for recompute in (False, True):
        set_recompute(layer, recompute)
        layer.zero_grad()
        with torch.autocast("cpu", dtype):
            layer(x).float().square().sum().backward()
        found.append(layer.qkv_conv.weight.grad.clone())
    assert torch.equal(*found)
