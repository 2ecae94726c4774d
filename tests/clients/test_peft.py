"""LoRA by peft on the convolutions of the attention layers."""

import copy
import pickle

import pytest
import torch
from torch import nn

from attnconv import AugmentedConv2d, SelfAttention, SimpleSelfAttention

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.slow

LAYERS = {
    "simple": (SimpleSelfAttention, ["1.conv"]),
    "sagan": (SelfAttention, ["1.query", "1.key", "1.value"]),
    "augmented": (
        lambda c, **_: AugmentedConv2d(
            c, c, 3, padding=1, key_channels=8, value_channels=4, num_heads=2, feat_size=9, qkv_kernel_size=3
        ),
        ["1.qkv_conv", "1.attn_out", "1.conv_out"],
    ),
}


def adapted(name, **settings):
    """A network with adapters on the layer, the network without them, and an input."""
    torch.manual_seed(0)
    make, targets = LAYERS[name]
    model = nn.Sequential(nn.Conv2d(3, 8, 3), make(8, **settings), nn.Conv2d(8, 3, 1)).eval()
    if hasattr(model[1], "gamma"):
        nn.init.constant_(model[1].gamma, 0.3)
    config = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    return peft.get_peft_model(copy.deepcopy(model), config).eval(), model, torch.randn(2, 3, 8, 10)[..., :9]


@pytest.mark.parametrize("name", LAYERS)
def test_adapters_change_the_output_and_learn(name):
    lora, model, x = adapted(name)
    assert not torch.allclose(lora(x), model(x))
    with lora.disable_adapter():
        torch.testing.assert_close(lora(x), model(x), rtol=1e-4, atol=1e-5)
    lora(x).square().mean().backward()
    grads = {n: p.grad for n, p in lora.named_parameters() if "lora_" in n}
    assert len(grads) == 2 * len(LAYERS[name][1])
    assert all(grad is not None and grad.abs().max() > 0 for grad in grads.values())


@pytest.mark.parametrize("name", LAYERS)
def test_merged_adapters_give_the_same_without_spectral_norm(name):
    lora, _, x = adapted(name, spectral_norm=False)
    expected = lora(x)
    torch.testing.assert_close(lora.merge_and_unload()(x), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["simple", "sagan"])
def test_merging_under_spectral_norm_loses_them(name):
    """The limit that the layers' pages name: peft adds to the weight that spectral norm computes anew."""
    lora, model, x = adapted(name)
    torch.testing.assert_close(lora.merge_and_unload()(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_an_adapted_network_goes_through_pickle(name):
    lora, _, x = adapted(name)
    torch.testing.assert_close(pickle.loads(pickle.dumps(lora))(x), lora(x), rtol=0, atol=0)
