"""The 2019 signatures: their documented examples, their checkpoints, their scrambled head layout."""

import oracles
import pytest
import torch
from torch import nn

from attnconv import checks
from attnconv.compat import AugmentedConv, InPaperAugmentedConv, SelfAttention, SimpleSelfAttention


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"Nh": 4, "relative": True, "padding": 1, "stride": 1, "shape": 32}, (16, 20, 32, 32)),
        ({"Nh": 4, "relative": True, "padding": 1, "stride": 2, "shape": 16}, (16, 20, 16, 16)),
        ({"Nh": 1, "relative": False, "padding": 0}, (16, 20, 30, 30)),
        ({"Nh": 1, "relative": False, "padding": 1}, (16, 20, 32, 32)),
        ({"Nh": 1, "relative": False, "padding": 1, "stride": 2}, (16, 20, 16, 16)),
    ],
)
def test_the_examples_of_the_document_print_the_shapes_it_gives(settings, shape):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layer = AugmentedConv(in_channels=3, out_channels=20, kernel_size=3, dk=40, dv=4, **settings).to(device)
    assert layer(torch.randn((16, 3, 32, 32)).to(device)).shape == shape


def test_the_documented_parameter_names():
    layer = AugmentedConv(in_channels=3, out_channels=20, kernel_size=3, dk=40, dv=4, Nh=4, relative=True, shape=32)
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "key_rel_h": (63, 10),
        "key_rel_w": (63, 10),
        "conv_out.weight": (16, 3, 3, 3),
        "conv_out.bias": (16,),
        "qkv_conv.weight": (84, 3, 3, 3),
        "qkv_conv.bias": (84,),
        "attn_out.weight": (4, 4, 1, 1),
        "attn_out.bias": (4,),
    }


def test_the_positional_order_has_stride_ninth():
    layer = AugmentedConv(3, 20, 5, 40, 4, 4, 16, True, 2)
    assert layer.stride == (2, 2)
    assert layer.padding == ((2, 2), (2, 2))  # (kernel_size - 1) // 2 where none is given
    assert layer(torch.randn(1, 3, 32, 32)).shape == (1, 20, 16, 16)


def test_tables_start_from_a_standard_normal():
    torch.manual_seed(0)
    layer = AugmentedConv(3, 20, 3, 200, 4, 4, shape=64, relative=True)
    assert layer.key_rel_w.std().item() == pytest.approx(1, rel=0.05)


def legacy(dv, nh, **settings):
    torch.manual_seed(0)
    layer = AugmentedConv(3, 10, 3, 4 * nh, dv, nh, shape=6, relative=True, **settings).double()
    return layer, torch.randn(2, 3, 4, 5, dtype=torch.float64)


@pytest.mark.parametrize(("dv", "nh"), [(4, 2), (6, 3), (2, 1), (2, 2), (4, 4), (1, 1)])
@pytest.mark.parametrize("head_layout", ["correct", "legacy"])
def test_both_head_layouts_match_the_loops(dv, nh, head_layout):
    layer, x = legacy(dv, nh, head_layout=head_layout)
    expected = oracles.augmented_conv(layer, x, scramble=head_layout == "legacy")
    torch.testing.assert_close(layer(x).detach(), torch.from_numpy(expected))


@pytest.mark.parametrize(("dv", "nh"), [(4, 2), (6, 3), (2, 1), (2, 2), (4, 4), (1, 1)])
def test_legacy_differs_exactly_when_a_head_has_more_than_one_value_channel(dv, nh):
    (correct, x), (scrambled, _) = legacy(dv, nh), legacy(dv, nh, head_layout="legacy")
    same = torch.allclose(correct(x), scrambled(x))
    assert same == (dv // nh == 1)


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"model": state, "acc": 59.82, "epoch": 35}])
def test_plain_and_wrapped_checkpoints_load(wrap, tmp_path):
    one, x = legacy(4, 2)
    torch.save(wrap(one.state_dict()), tmp_path / "ckpt.t7")
    two, _ = legacy(4, 2)
    nn.init.zeros_(two.qkv_conv.weight)
    two.load_state_dict(torch.load(tmp_path / "ckpt.t7", weights_only=True))
    assert torch.equal(one(x), two(x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AugmentedConv(3, 20, 3, 40, 4, 4, relative=True), "relative=True needs shape"),
        (lambda: AugmentedConv(3, 20, 3, 41, 4, 4), "key_channels must be a multiple of num_heads=4, got 41"),
        (lambda: AugmentedConv(3, 20, 3, 40, 6, 4), "value_channels must be a multiple of num_heads=4, got 6"),
        (lambda: AugmentedConv(3, 20, 3, 40, 4, 0), "num_heads must be at least 1, got 0"),
        (lambda: AugmentedConv(3, 20, 3, 40, 4, 4, head_layout="old"), "unknown head_layout 'old'"),
        (lambda: InPaperAugmentedConv(3, 20, 5, 40, 4, 4), "InPaperAugmentedConv has kernel_size 3 alone, got 5"),
        (lambda: InPaperAugmentedConv(3, 20, 3, 40, 4, 4, True), "relative=True drew new position tables at each"),
        (lambda: InPaperAugmentedConv(3, 20, 3, 40, 6, 4), "value_channels must be a multiple of num_heads=4, got 6"),
        (lambda: InPaperAugmentedConv(3, 20, 3, 40, 4, 4, head_layout="old"), "unknown head_layout 'old'"),
        (lambda: SimpleSelfAttention(8, ks=2), "ks must be odd"),
        (lambda: SimpleSelfAttention(8, ks=3, sym=True), "sym=True needs ks=1, got ks=3"),
    ],
)
def test_arguments_that_do_not_fit_get_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_projection_of_1x1_is_sent_to_its_own_class():
    state = InPaperAugmentedConv(3, 20, 3, 40, 4, 4).state_dict()
    with pytest.raises(checks.InputError, match=r"is 1x1: .* which compat\.InPaperAugmentedConv loads"):
        AugmentedConv(3, 20, 3, 40, 4, 4).load_state_dict(state)
    AugmentedConv(3, 20, 1, 40, 4, 4).load_state_dict(AugmentedConv(3, 20, 1, 40, 4, 4).state_dict())


@pytest.mark.parametrize(("dv", "nh"), [(6, 3), (4, 1), (3, 3)])
@pytest.mark.parametrize("head_layout", ["correct", "legacy"])
def test_the_layer_with_a_projection_of_1x1_matches_the_loops(dv, nh, head_layout):
    torch.manual_seed(0)
    layer = InPaperAugmentedConv(3, 10, 3, 4 * nh, dv, nh, head_layout=head_layout).double()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected = oracles.augmented_conv(layer, x, scramble=head_layout == "legacy")
    torch.testing.assert_close(layer(x).detach(), torch.from_numpy(expected))
    assert "legacy" in repr(layer) or head_layout == "correct"


def simple(channels, ks, sym=False):
    torch.manual_seed(1)
    layer = SimpleSelfAttention(channels, ks, sym).double().eval()
    nn.init.constant_(layer.gamma, 0.3)
    return layer


@pytest.mark.parametrize("sym", [False, True])
def test_simple_self_attention_with_a_kernel_of_one(sym):
    layer, x = simple(5, 1, sym), torch.randn(2, 5, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(
        layer(x).detach(), torch.from_numpy(oracles.bilinear_attention(x, layer.conv.weight, 0.3))
    )


@pytest.mark.parametrize("map_size", [(3, 4), (2, 1)])  # more positions than channels, and fewer
def test_a_wider_kernel_convolves_the_flattened_map(map_size):
    layer, x = simple(5, 3), torch.randn(2, 5, *map_size, dtype=torch.float64)
    flat = x.flatten(2)
    wx = torch.from_numpy(oracles.convolution(flat, layer.conv.weight, None, [1], [(1, 1)], [1], 1, "zeros"))
    expected = 0.3 * flat @ (flat.mT @ wx) + flat  # x (x^T (W x)), as the document prints it
    torch.testing.assert_close(layer(x).detach(), expected.reshape(x.shape))


def test_a_wider_kernel_starts_as_the_identity_in_half_precision_too():
    x = torch.randn(2, 5, 3, 4, dtype=torch.bfloat16)
    assert torch.equal(SimpleSelfAttention(5, 3).bfloat16()(x), x)


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*")
@pytest.mark.parametrize("ks", [1, 3])
def test_state_dicts_of_the_old_class_load(ks):
    torch.manual_seed(2)
    old = nn.Module()
    old.conv = torch.nn.utils.spectral_norm(nn.Conv1d(5, 5, ks, padding=ks // 2, bias=False)).double()
    old.gamma = nn.Parameter(torch.tensor([0.3], dtype=torch.float64))
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    flat = x.flatten(2)
    old.eval()
    expected = 0.3 * flat @ (flat.mT @ old.conv(flat)) + flat
    layer = SimpleSelfAttention(5, ks).double().eval()
    layer.load_state_dict(old.state_dict())
    torch.testing.assert_close(layer(x), expected.reshape(x.shape))


@pytest.mark.parametrize("layer", [SimpleSelfAttention(4), SelfAttention(4), AugmentedConv(3, 8, 3, dk=4, dv=4, Nh=2)])
def test_an_empty_state_dict_and_the_versions_of_modules(layer, monkeypatch):
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    missing = layer.load_state_dict({}, strict=False).missing_keys
    assert missing
    with pytest.raises(RuntimeError, match="Missing key"):
        layer.load_state_dict({})
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())
    seen = []
    monkeypatch.setattr(
        type(layer), "_load_from_state_dict", lambda self, state, prefix, local, *_: seen.append(local), raising=True
    )
    layer.load_state_dict(layer.state_dict(), strict=False)
    assert seen[0]["version"] == 1
