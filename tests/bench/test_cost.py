"""MACs, FLOPs in both conventions and attention memory, against formulas written out by hand."""

import torch
from torch import nn

from attnconv import AugmentedConv2d, SelfAttention
from attnconv.bench.cost import cost
from attnconv.models import create_model


def layer(**settings):
    return AugmentedConv2d(3, 10, 3, padding=1, key_channels=6, value_channels=4, num_heads=2, feat_size=9, **settings)


def test_an_augmented_convolution_by_hand():
    found = cost(layer(), in_channels=3, image_size=(5, 7))
    positions = 5 * 7
    convolution = positions * 6 * 3 * 9
    projections = positions * (3 * 16 + 4 * 4)
    products = positions**2 * (6 + 4)
    terms = positions * (5 + 7) * 6
    assert found.macs == convolution + projections + products + terms
    assert found.flops == 2 * found.macs
    assert found.paper_flops == 2 * (convolution + projections) + products
    (attention,) = found.attention
    assert attention.eager_bytes == 4 * 2 * positions**2
    assert attention.linear_bytes == 4 * positions * (6 + 6 + 4 + 4 + 2)


def test_without_tables_there_are_no_position_terms():
    assert cost(layer(position=None), in_channels=3, image_size=(5, 7)).attention[0].position_macs == 0


def test_pooled_attention_is_counted_on_its_own_map():
    found = cost(layer(attention_pool=2), in_channels=3, image_size=(5, 7)).attention[0]
    assert found.map_size == (3, 4)
    assert found.product_macs == 12**2 * 10


def test_a_network_without_attention_has_one_count():
    found = cost(create_model("convnet3", num_classes=10, image_size=32), in_channels=3, image_size=(32, 32))
    assert found.paper_flops == found.flops == 2 * found.macs
    assert found.macs == 9 * (1024 * 3 * 64 + 256 * 64 * 128 + 64 * 128 * 192) + 192 * 10
    assert found.attention == ()


def test_sagan_attention_is_counted():
    found = cost(nn.Sequential(SelfAttention(16)), in_channels=16, image_size=(4, 5))
    assert found.attention[0].product_macs == 20**2 * (2 + 16)
    assert found.paper_flops == found.flops - 20**2 * (2 + 16)


def test_the_network_itself_is_left_alone():
    model = layer().train()
    cost(model, in_channels=3, image_size=(5, 7))
    assert model.training
    assert model.qkv_conv.weight.device == torch.device("cpu")
    assert not model._forward_hooks
