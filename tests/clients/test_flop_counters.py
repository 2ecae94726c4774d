"""fvcore, thop, torchinfo and ptflops on the layers: which of them count attention."""

import logging

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from attnconv import AugmentedConv2d, SelfAttention, SimpleSelfAttention

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def augmented(size=32):
    return AugmentedConv2d(
        64, 64, 3, padding=1, key_channels=64, value_channels=32, num_heads=4, feat_size=size
    ).eval(), torch.randn(1, 64, size, size)


def of_torch(model, x):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    return counter.get_total_flops() // 2


def of_fvcore(model, x):
    fvcore = pytest.importorskip("fvcore.nn")
    logging.disable(logging.WARNING)
    counted = fvcore.FlopCountAnalysis(model, x).unsupported_ops_warnings(False)
    return counted.total(), set(counted.unsupported_ops())


def test_fvcore_counts_augmented_convolutions():
    model, x = augmented()
    assert of_fvcore(model, x)[0] == of_torch(model, x) == 135_266_304


def test_fvcore_counts_sagans_layer():
    model, x = SelfAttention(64).eval(), torch.randn(1, 64, 16, 16)
    assert of_fvcore(model, x)[0] == of_torch(model, x)


def test_of_simple_self_attention_fvcore_counts_another_order():
    model, x, L, C = SimpleSelfAttention(64).eval(), torch.randn(1, 64, 16, 16), 16 * 16, 64
    assert of_torch(model, x) == 2 * L * C**2 + C**3
    assert of_fvcore(model, x)[0] == 3 * L * C**2


def test_beyond_64x64_fvcore_says_what_it_did_not_count():
    layer = AugmentedConv2d(8, 8, 3, padding=1, key_channels=8, value_channels=4, num_heads=2, feat_size=66).eval()
    macs, left_out = of_fvcore(layer, torch.randn(1, 8, 66, 66))
    assert "aten::scaled_dot_product_attention" in left_out
    assert macs < of_torch(layer, torch.randn(1, 8, 66, 66)) / 10


@pytest.mark.parametrize("tool", ["thop", "torchinfo", "ptflops"])
def test_counters_of_modules_miss_attention(tool):
    library = pytest.importorskip(tool)
    model, x = augmented()
    if tool == "thop":
        macs = library.profile(nn.Sequential(model), (x,), verbose=False)[0]
    elif tool == "torchinfo":
        macs = library.summary(model, input_data=x, verbose=0).total_mult_adds
    else:
        macs = library.get_model_complexity_info(model, (64, 32, 32), as_strings=False, print_per_layer_stat=False)[0]
    assert macs == pytest.approx(30.6e6, rel=0.01)
