"""Which sizes a network takes, and the folded copy of one."""

import re

import pytest
import torch
from export.untrained import network
from torch import nn

from attnconv import AugmentedConv2d, surgery
from attnconv.export.capture import folded, require_exportable
from attnconv.layers.spectral_norm import ConstrainedConv1d
from attnconv.models.image_sizes import Sizes, sizes_of


@pytest.mark.parametrize(
    ("name", "size", "rows", "columns"),
    [
        ("convnet3", (16, 12), (8, None), (8, None)),
        ("aa_convnet3", (16, 13), (8, 17), (8, 13)),  # maps of 8 x 6 and 4 x 3 cells: 17 // 2 is 8, 13 // 2 is 6
        ("aa_unet", (13, 16), (4, 15), (4, 19)),
        ("sa_xresnet18", 32, (1, None), (1, None)),
    ],
)
def test_a_network_takes_what_it_runs_on_and_its_tables_cover(name, size, rows, columns):
    model = network(name, size)
    found = sizes_of(model, 2, (size, size) if isinstance(size, int) else size)
    assert found == Sizes(rows, columns)
    with torch.no_grad():
        model(torch.randn(1, 2, rows[1] or 50, columns[1] or 41))
        for axis in (0, 1):
            if (most := (rows[1], columns[1])[axis]) is not None:
                above = [8, 8]
                above[axis] = most + 1
                with pytest.raises(ValueError, match="resize_feat_size"):
                    model(torch.randn(1, 2, *above))


def test_resized_tables_are_found():
    model = network("aa_convnet3", 16)
    surgery.resize_feat_size(model, (40, 24))
    assert sizes_of(model, 2, (16, 16)) == Sizes((8, 41), (8, 25))


def test_tables_that_do_not_cover_the_size_are_named():
    message = re.escape(
        "images of 33 x 33 are larger than the position tables: layer 'layer2.0' gets a map of (16, 16) and its tables "
        "cover feat_size=(8, 8); attnconv.surgery.resize_feat_size(model, (33, 33)) fits all tables"
    )
    with pytest.raises(ValueError, match=message):
        sizes_of(network("aa_convnet3", 16), 2, (33, 33))


def test_images_that_the_network_refuses():
    with pytest.raises(ValueError, match="at least 8 x 8 pixels"):
        sizes_of(network("convnet3", 16), 2, (7, 16))


@pytest.mark.parametrize(
    ("size", "reason"),
    [((8, 9), None), ((7, 9), "8 to 17 rows, got 7"), ((18, 9), "8 to 17 rows, got 18"), ((8, 7), "8 or more col")],
)
def test_why_an_image_is_not_taken(size, reason):
    why_not = Sizes((8, 17), (8, None)).why_not(size)
    assert why_not is None if reason is None else reason in why_not


@pytest.mark.parametrize("symmetric", [False, True])
def test_spectral_norm_is_folded_on_a_copy_alone(symmetric):
    model = network("ssa_xresnet18", 32, symmetric=symmetric).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = folded(model)
    assert not [name for name in plain.state_dict() if "parametrizations" in name]
    assert [type(m) for m in plain.modules() if isinstance(m, nn.Conv1d)] == [ConstrainedConv1d]
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert model.training
    assert any("parametrizations" in name for name in before)
    x = torch.randn(2, 2, 20, 17)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), model.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize("impl", ["blocked", "triton"])
def test_a_kernel_that_cannot_be_exported(impl):
    layer = AugmentedConv2d(2, 4, 3, key_channels=2, value_channels=2, num_heads=1, feat_size=4, impl=impl)
    message = f"layer '1' has impl='{impl}', which cannot be exported: it is an operator .* impl to 'auto', or to 'eag"
    with pytest.raises(ValueError, match=message):
        require_exportable(nn.Sequential(nn.Identity(), layer))
    layer.impl = "sdpa"
    require_exportable(layer)
