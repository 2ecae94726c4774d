"""`surgery.resize_feat_size`: tables of a whole network for images of another size."""

import copy

import pytest
import torch
from surgery.networks import UNet
from torch import nn

from attnconv import AugmentedConv2d, checks, surgery

WIDTHS = {"key_channels": 6, "value_channels": 4, "num_heads": 2, "padding": 1}


def augmented_unet():
    model, _ = surgery.augment(
        UNet(), image_size=16, where=r"bottom|up\.0\.0", key_ratio=0.2, value_ratio=0.1, num_heads=2, min_head_dim=3
    )
    return model


def test_each_table_fits_its_map_and_is_interpolated():
    model = augmented_unet()
    by_hand = copy.deepcopy(model)
    changes = surgery.resize_feat_size(model, (20, 31))
    sizes = {"bottom.0": (5, 7), "bottom.3": (5, 7), "up.0.0": (10, 15)}
    assert {change.name: change.map_size for change in changes} == sizes
    for name, size in sizes.items():
        by_hand.get_submodule(name).resize_feat_size(size)
    torch.testing.assert_close(model.state_dict(), by_hand.state_dict(), rtol=0, atol=0)
    assert model(torch.randn(2, 1, 20, 31)).shape == (2, 3, 20, 31)


def test_changes_tell_the_sizes_and_parameters():
    changes = surgery.resize_feat_size(augmented_unet(), 32)
    assert (changes[0].before, changes[0].after) == ("feat_size 4x4", "feat_size 8x8")
    assert changes[0].params_after - changes[0].params_before == 2 * 3 * (15 - 7)


def test_nothing_changes_at_the_same_size():
    model = augmented_unet()
    parameters = list(model.parameters())
    assert len(surgery.resize_feat_size(model, 16)) == 0
    assert all(one is other for one, other in zip(parameters, model.parameters(), strict=True))


def test_it_shrinks_too_and_takes_an_example():
    model = augmented_unet()
    surgery.resize_feat_size(model, example=torch.randn(1, 1, 8, 12))
    assert model.bottom[0].feat_size == (2, 3)


class Pyramid(nn.Module):
    """One layer for maps of several sizes, another that does not run, and one without tables."""

    def __init__(self):
        super().__init__()
        self.head = AugmentedConv2d(2, 8, 3, feat_size=4, **WIDTHS)
        self.unused = AugmentedConv2d(2, 8, 3, feat_size=4, **WIDTHS)
        self.sine = AugmentedConv2d(8, 8, 3, feat_size=4, position=None, **WIDTHS)

    def forward(self, x):
        return [self.sine(self.head(y)) for y in (x[..., :3], x[..., :3, :])]


def test_the_largest_map_counts_and_other_layers_are_left():
    model = Pyramid()
    changes = surgery.resize_feat_size(model, (5, 6))
    assert [(change.name, change.map_size) for change in changes] == [("head", (5, 6))]
    assert model.head.position == model.unused.position == "relative"
    assert model.unused.feat_size == (4, 4)
    assert model.sine.position is None


def test_a_single_layer_is_a_model_too():
    layer = AugmentedConv2d(2, 8, 3, feat_size=4, **WIDTHS)
    surgery.resize_feat_size(layer, (9, 5))
    assert layer.feat_size == (9, 5)


def test_refusals():
    with pytest.raises(checks.InputError, match="UNet has no augmented convolution with position tables"):
        surgery.resize_feat_size(UNet(), 32)
    with pytest.raises(checks.InputError, match="image_size is needed, or example="):
        surgery.resize_feat_size(augmented_unet())


def test_a_failed_trace_leaves_the_layers_as_they_were():
    model = augmented_unet()
    with pytest.raises(checks.InputError, match=r"UNet does not run on zeros of \(1, 1, 1, 1\)"):
        surgery.resize_feat_size(model, 1)
    assert model.bottom[0].position == "relative"
    assert model.bottom[0].feat_size == (4, 4)


def test_a_large_map_is_not_attended_to():
    """At 2,048 px the logits of one layer would take terabytes; sizes are found without them."""
    layer = AugmentedConv2d(3, 8, 3, padding=1, key_channels=4, value_channels=4, num_heads=2, feat_size=8)
    changes = surgery.resize_feat_size(nn.Sequential(layer, nn.MaxPool2d(2)), 2048)
    assert len(changes) == 1
    assert layer.feat_size == (2048, 2048)
    assert "forward" not in vars(layer)
    assert layer(torch.randn(1, 3, 5, 7)).shape == (1, 8, 5, 7)
