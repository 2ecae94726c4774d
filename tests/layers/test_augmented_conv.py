"""AugmentedConv1d/2d/3d against loops, and their behaviour as modules."""

import copy

import oracles
import pytest
import torch
from torch import nn

from attnconv import AugmentedConv1d, AugmentedConv2d, AugmentedConv3d
from attnconv.kernels.relative_attention import native

LAYERS = {1: AugmentedConv1d, 2: AugmentedConv2d, 3: AugmentedConv3d}
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def make(axes=2, in_channels=4, out_channels=10, kernel_size=3, **settings):
    """A float64 layer of two heads, D = 3 and E = 2; every table and bias random."""
    torch.manual_seed(0)
    defaults = {"key_channels": 6, "value_channels": 4, "num_heads": 2, "feat_size": 14, "dtype": torch.float64}
    return LAYERS[axes](in_channels, out_channels, kernel_size, **{**defaults, **settings})


def image(*map_size, batch=2, channels=4):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(batch, channels, *map_size, generator=generator, dtype=torch.float64)


GEOMETRIES = [
    {"padding": 1},
    {"padding": 0},
    {"padding": 1, "stride": 2},
    {"kernel_size": (2, 5), "padding": (1, 0), "stride": (1, 2)},
    {"kernel_size": 2, "padding": 1},
    {"kernel_size": 4, "padding": (3, 0), "stride": (2, 1)},
    {"kernel_size": (4, 3), "padding": "same", "dilation": (2, 1)},
    {"kernel_size": 2, "padding": "valid", "dilation": 3},
    {"kernel_size": 1, "padding": 2},
    {"padding": 2, "groups": 2},
    {"padding": 1, "bias": False},
    {"padding": 2, "padding_mode": "reflect"},
    {"padding": (0, 3), "padding_mode": "replicate"},
    {"padding": 3, "padding_mode": "circular", "stride": 2},
    {"kernel_size": 2, "padding": "same", "padding_mode": "reflect"},
    {"padding": 1, "qkv_kernel_size": 3},
    {"padding": 2, "qkv_kernel_size": (1, 2), "dilation": (1, 2)},
    {"padding": 1, "attention_pool": 2},
    {"padding": 1, "attention_pool": 2, "stride": 2},
    {"padding": 2, "attention_pool": 2, "qkv_kernel_size": 2},
    {"padding": 1, "position": None, "feat_size": None},
    {"padding": 1, "out_channels": 4},
    {"padding": 1, "key_channels": 2, "value_channels": 8},
]


@pytest.mark.parametrize("settings", GEOMETRIES, ids=str)
def test_matches_the_loops(settings):
    layer, x = make(**settings), image(7, 6)
    torch.testing.assert_close(layer(x).detach(), torch.from_numpy(oracles.augmented_conv(layer, x)))


FEATURES = [
    {"padding": 1},
    {"padding": 1, "stride": 2},
    {"padding": 3, "padding_mode": "reflect"},
    {"padding": 0},
    {"padding": 1, "attention_pool": 2},
    {"padding": 2, "attention_pool": 2, "qkv_kernel_size": 3, "dilation": 2},
]


@pytest.mark.parametrize("position", ["sine", "coordconv"])
@pytest.mark.parametrize("settings", FEATURES, ids=str)
@pytest.mark.parametrize("channels", [4, 7])
def test_positions_given_as_features_match_the_loops(position, settings, channels):
    layer = make(in_channels=channels, position=position, feat_size=None, **settings)
    x = image(7, 6, channels=channels)
    expected = torch.from_numpy(oracles.augmented_conv(layer, x))
    torch.testing.assert_close(layer(x).detach(), expected, rtol=1e-5, atol=1e-6)  # the waves are float32


@pytest.mark.parametrize(("axes", "map_size"), [(1, (9,)), (3, (3, 2, 4))])
@pytest.mark.parametrize("settings", [{"padding": 1}, {"padding": 1, "stride": 2}, {"padding": 1, "attention_pool": 2}])
def test_one_and_three_axes_match_the_loops(axes, map_size, settings):
    layer, x = make(axes, **settings), image(*map_size)
    torch.testing.assert_close(layer(x).detach(), torch.from_numpy(oracles.augmented_conv(layer, x)))


@pytest.mark.parametrize("map_size", [(1,), (2,), (1, 3), (2, 1), (1, 1, 2), (2, 3, 1)])
@pytest.mark.parametrize("pool", [1, 2])
def test_the_smallest_maps(map_size, pool):
    layer, x = make(len(map_size), padding=1, attention_pool=pool), image(*map_size)
    torch.testing.assert_close(layer(x).detach(), torch.from_numpy(oracles.augmented_conv(layer, x)))


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("settings", [{"stride": 2}, {"padding": 3, "dilation": 2}, {"kernel_size": 2, "padding": 1}])
def test_the_output_size_is_that_of_the_convolution(axes, settings):
    settings = {"kernel_size": 3, **settings}
    x = image(*(8, 7, 6)[:axes])
    plain = CONVS[axes](4, 10, **settings, dtype=torch.float64)
    assert make(axes, **settings)(x).shape == plain(x).shape


@pytest.mark.parametrize(
    ("axes", "names"),
    [(1, ["key_rel_w"]), (2, ["key_rel_h", "key_rel_w"]), (3, ["key_rel_d", "key_rel_h", "key_rel_w"])],
)
def test_parameter_names(axes, names):
    convolutions = [f"{conv}.{part}" for conv in ("conv_out", "qkv_conv", "attn_out") for part in ("weight", "bias")]
    assert sorted(dict(make(axes).named_parameters())) == sorted([*names, *convolutions])


def test_tables_cover_the_rows_and_the_columns_of_the_output_map():
    layer = make(feat_size=(5, 9))
    assert layer.key_rel_h.shape == (9, 3)
    assert layer.key_rel_w.shape == (17, 3)


def test_tables_start_with_the_standard_deviation_of_the_paper():
    layer = make(key_channels=128, num_heads=2, feat_size=200)
    assert layer.key_rel_h.std().item() == pytest.approx(64**-0.5, rel=0.05)


def test_fully_attentional_layer_has_no_convolution():
    layer = make(out_channels=4)
    assert layer.conv_out is None
    assert layer(image(5, 7)).shape == (2, 4, 3, 5)


def test_smaller_and_non_square_maps_use_the_middle_of_the_tables():
    large, small = make(padding=1, feat_size=(9, 11)), make(padding=1, feat_size=(5, 7))
    state = large.state_dict()
    state["key_rel_h"], state["key_rel_w"] = state["key_rel_h"][4:-4], state["key_rel_w"][4:-4]
    small.load_state_dict(state)
    x = image(5, 7)
    assert torch.equal(large(x), small(x))


def test_groups_split_the_convolution_only():
    layer = make(groups=2)
    assert layer.conv_out.weight.shape[1] == 2
    assert layer.qkv_conv.weight.shape[1] == 4


def test_swapping_the_tables_changes_the_output():
    layer, x = make(padding=1, feat_size=7), image(7, 7)
    before = layer(x)
    layer.key_rel_h, layer.key_rel_w = layer.key_rel_w, layer.key_rel_h
    assert (layer(x) - before).abs().max() > 1e-2


@pytest.mark.parametrize("position", ["sine", "coordconv"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_positions_given_as_features_break_the_symmetry_of_attention(position, axes):
    """Without positions a shuffled map gives shuffled attention; with them it does not."""
    x = image(*(3, 4, 5)[:axes], channels=6)
    order = torch.randperm(x[0, 0].numel(), generator=torch.Generator().manual_seed(0))
    shuffled = x.flatten(2)[:, :, order].reshape(x.shape)

    def gap(position):
        layer = make(axes, 6, 4, 1, position=position, feat_size=None)
        return (layer(x).flatten(2)[:, :, order] - layer(shuffled).flatten(2)).abs().max()

    assert gap(None) < 1e-12
    assert gap(position) > 1e-3


@pytest.mark.parametrize("position", ["sine", "coordconv"])
def test_features_need_no_feat_size_and_take_any_map(position):
    layer = make(padding=1, position=position, feat_size=None)
    assert layer(image(3, 5)).shape == (2, 10, 3, 5)
    assert layer(image(16, 15)).shape == (2, 10, 16, 15)


def test_coordinates_run_from_minus_one_to_one_and_reach_the_projection():
    layer, x = make(1, 4, 4, 1, position="coordconv", feat_size=None, bias=False), torch.zeros(1, 4, 5).double()
    q, _, _ = layer.queries_keys_values(x)
    expected = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None] * layer.qkv_conv.weight[:6, 4, 0]
    torch.testing.assert_close(q.movedim(1, 2).flatten(2)[0], expected)


def test_sine_waves_are_those_of_the_transformer():
    layer, x = make(1, 4, 4, 1, position="sine", feat_size=None, bias=False), torch.zeros(1, 4, 6).double()
    at = torch.arange(6.0)
    waves = torch.stack([at.sin(), (at / 100).sin(), at.cos(), (at / 100).cos()], dim=1).double()  # 10,000**(1/2) = 100
    q, _, _ = layer.queries_keys_values(x)
    expected = waves @ layer.qkv_conv.weight[:6, :, 0].T
    torch.testing.assert_close(q.movedim(1, 2).flatten(2)[0], expected, rtol=1e-6, atol=1e-6)


def test_resize_feat_size_keeps_the_middle_and_the_ends():
    layer = make(feat_size=(4, 6))
    old = copy.deepcopy(layer)
    layer.resize_feat_size((8, 3))
    assert layer.feat_size == (8, 3)
    assert layer.key_rel_h.shape == (15, 3)
    assert layer.key_rel_w.shape == (5, 3)
    for place in (0, -1):
        torch.testing.assert_close(layer.key_rel_h[place], old.key_rel_h[place])
    torch.testing.assert_close(layer.key_rel_h[7], old.key_rel_h[3])
    torch.testing.assert_close(layer.key_rel_w[2], old.key_rel_w[5])


def test_resize_feat_size_interpolates_linearly():
    layer = make(feat_size=3)
    layer.key_rel_h.data = torch.linspace(0, 4, 5, dtype=torch.float64)[:, None].expand(5, 3).clone()
    layer.resize_feat_size(5)
    torch.testing.assert_close(layer.key_rel_h[:, 0].detach(), torch.linspace(0, 4, 9, dtype=torch.float64))


def test_resize_to_a_single_cell_keeps_distance_zero():
    layer = make(feat_size=(4, 9))
    old = layer.key_rel_h[3].clone()
    layer.resize_feat_size((1, 9))
    assert torch.equal(layer.key_rel_h, old[None])


def test_resized_layer_takes_the_larger_map():
    layer = make(padding=1, feat_size=4)
    with pytest.raises(ValueError, match=r"call layer\.resize_feat_size\(\(6, 7\)\)"):
        layer(image(6, 7))
    layer.resize_feat_size((6, 7))
    assert layer(image(6, 7)).shape == (2, 10, 6, 7)


def test_resize_to_the_same_size_changes_nothing():
    layer, x = make(padding=1, feat_size=(5, 7)), image(5, 7)
    before = layer(x)
    layer.resize_feat_size((5, 7))
    torch.testing.assert_close(layer(x), before)


def test_resize_needs_tables():
    with pytest.raises(ValueError, match="needs position='relative', this layer has None"):
        make(position=None, feat_size=None).resize_feat_size(4)


def test_pooled_tables_cover_the_pooled_map():
    layer = make(padding=1, attention_pool=2, feat_size=(7, 10))
    assert layer.key_rel_h.shape == (7, 3)
    assert layer.key_rel_w.shape == (9, 3)


@pytest.mark.parametrize(
    ("ratios", "widths"),
    [
        # d_k = max(floor(kappa F / N) N, 20 N), d_v = max(floor(upsilon F / N) N, N), by hand
        ({"out_channels": 160, "key_ratio": 0.2, "value_ratio": 0.1}, (160, 16)),
        ({"out_channels": 640, "key_ratio": 0.2, "value_ratio": 0.1}, (160, 64)),
        ({"out_channels": 64, "key_ratio": 0.2, "value_ratio": 0.1}, (160, 8)),
        ({"out_channels": 1280, "key_ratio": 0.2, "value_ratio": 0.1}, (256, 128)),
        ({"out_channels": 100, "key_ratio": 0.29, "value_ratio": 0.29, "num_heads": 1, "min_head_dim": 1}, (29, 29)),
        ({"out_channels": 64, "key_ratio": 0.5, "value_ratio": 0.25, "num_heads": 4, "min_head_dim": 16}, (64, 16)),
    ],
)
def test_from_ratios_follows_the_rule_of_the_paper(ratios, widths):
    layer = AugmentedConv2d.from_ratios(4, kernel_size=3, feat_size=4, **ratios)
    assert (layer.key_channels, layer.value_channels) == widths


@pytest.mark.parametrize("kind", [AugmentedConv1d, AugmentedConv2d, AugmentedConv3d])
def test_channels_and_kernel_suffice_for_the_papers_layer_without_positions(kind):
    layer = kind(64, 128, 3)
    assert (layer.key_channels, layer.value_channels, layer.num_heads) == (160, 8, 8)
    assert (layer.position, layer.feat_size, layer.tables) == (None, None, None)
    torch.manual_seed(0)
    expected = kind.from_ratios(64, 128, 3, 1, 1, feat_size=4).state_dict()
    torch.manual_seed(0)
    layer = kind(64, 128, 3, padding=1, feat_size=4)
    assert layer.position == "relative"
    torch.testing.assert_close(dict(layer.state_dict()), dict(expected), rtol=0, atol=0)


def test_one_width_may_be_given_and_feat_size_does_not_force_positions():
    layer = AugmentedConv2d(64, 128, 3, value_channels=64, num_heads=4, feat_size=4, position=None)
    assert (layer.key_channels, layer.value_channels, layer.position) == (80, 64, None)


def test_from_ratios_passes_every_other_argument_on():
    settings = {
        "stride": (2, 2), "dilation": (2, 2), "groups": 2, "padding_mode": "reflect", "position": "relative",
        "feat_size": (9, 8), "qkv_kernel_size": (3, 3), "attention_pool": 2, "impl": "eager",
    }  # fmt: skip
    layer = AugmentedConv2d.from_ratios(
        4, 12, 3, key_ratio=0.5, value_ratio=0.34, num_heads=2, min_head_dim=2, padding=3, bias=False,
        dtype=torch.float64, device="meta", **settings,
    )  # fmt: skip
    assert {name: getattr(layer, name) for name in settings} == settings
    assert layer.padding == ((3, 3), (3, 3))
    assert layer.conv_out.bias is None
    assert layer.qkv_conv.weight.dtype == torch.float64
    assert layer.qkv_conv.weight.is_meta


def test_channels_last_stays_channels_last_and_agrees():
    layer = make(padding=1).float()
    x = image(5, 7).float()
    expected = layer(x)
    y = layer.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_non_contiguous_input():
    layer, x = make(padding=1), image(7, 5)
    assert not x.mT.is_contiguous()
    torch.testing.assert_close(layer(x.mT), layer(x.mT.contiguous()))


def test_gradients_reach_every_parameter():
    layer = make(padding=1, feat_size=(4, 5))
    layer(image(4, 5)).square().sum().backward()
    dead = [name for name, p in layer.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert dead == []


@pytest.mark.parametrize("settings", [{}, {"attention_pool": 2}, {"position": "sine"}, {"position": "coordconv"}])
def test_gradcheck(settings):
    layer, x = (
        make(1, 2, 4, 3, key_channels=2, value_channels=2, padding=1, feat_size=4, **settings),
        image(4, channels=2),
    )
    names = [name for name, _ in layer.named_parameters()]

    def call(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x.requires_grad_(), *layer.parameters()))


@pytest.mark.parametrize("settings", [{}, {"position": "sine"}, {"position": "coordconv"}, {"attention_pool": 2}])
def test_autocast_runs_in_its_dtype_and_stays_close(settings):
    layer, x = make(padding=1, **settings).float(), image(5, 7).float()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        y.float().square().mean().backward()
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.05)
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_modules(dtype):
    layer = make(padding=1, dtype=dtype)
    y = layer(image(5, 7).to(dtype))
    assert y.dtype == dtype
    assert y.isfinite().all()


def test_state_dict_round_trip():
    one, two, x = make(padding=1), make(padding=1), image(5, 7)
    for p in one.parameters():
        nn.init.normal_(p)
    assert not torch.equal(one(x), two(x))
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(x), two(x))


def test_meta_device_then_materialised():
    layer = make(padding=1, device="meta")
    assert layer(image(5, 7).to("meta")).shape == (2, 10, 5, 7)
    layer.to_empty(device="cpu")
    layer.load_state_dict(make(padding=1).state_dict())
    assert torch.equal(layer(image(5, 7)), make(padding=1)(image(5, 7)))


BAD_SETTINGS = [
    ({"key_channels": 7}, "key_channels must be a multiple of num_heads=2, got 7"),
    ({"value_channels": 5}, "value_channels must be a multiple of num_heads=2, got 5"),
    ({"value_channels": 0}, "a value_ratio of at least 0.2; got 0"),
    ({"key_channels": 0}, "key_channels must be at least num_heads=2, got 0"),
    ({"value_channels": 12}, "value_channels must be at most out_channels=10, got 12 for num_heads=2; the least is 2"),
    (
        {"num_heads": 12, "key_channels": 12, "value_channels": 12},
        "got 12 for num_heads=12; pass num_heads=10 or fewer",
    ),
    ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
    ({"num_heads": 2.0}, "num_heads must be an integer, got 2.0"),
    ({"groups": 3}, "in_channels must be a multiple of groups=3, got 4"),
    ({"groups": 4}, "out_channels - value_channels must be a multiple of groups=4, got 6"),
    ({"position": "relative", "feat_size": None}, "position='relative' needs feat_size"),
    ({"feat_size": (3, 4, 5)}, r"feat_size must be one integer or 2, one for each axis of the map, got \(3, 4, 5\)"),
    ({"feat_size": 0}, "feat_size must be at least 1, got 0"),
    ({"position": "relativ"}, "unknown position 'relativ'; nearest: 'relative'"),
    ({"position": "sine", "in_channels": 3}, "position='sine' needs at least 4 in_channels"),
    ({"padding": "sane"}, "unknown padding 'sane'; nearest: 'same'"),
    ({"padding": "same", "stride": 2}, r"padding='same' needs stride 1, got \(2, 2\)"),
    ({"padding": -1}, "padding must be at least 0, got -1"),
    ({"padding_mode": "zero"}, "unknown padding_mode 'zero'; nearest: 'zeros'"),
    ({"kernel_size": 0}, "kernel_size must be at least 1, got 0"),
    ({"attention_pool": 3}, "unknown attention_pool 3; known: 1, 2"),
    ({"attention_pool": 2.0}, "attention_pool must be an integer, got 2.0"),
    ({"impl": "fast"}, "unknown impl 'fast'"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS, ids=[str(s) for s, _ in BAD_SETTINGS])
def test_settings_that_do_not_fit_get_a_sentence(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (4, 5, 7),
            r"AugmentedConv2d takes \(B, 4, H, W\), got \(4, 5, 7\); add the batch axis with x\.unsqueeze\(0\)",
        ),
        ((2, 3, 5, 7), r"takes \(B, 4, H, W\), got \(2, 3, 5, 7\)"),
        ((2, 4, 2, 7), r"a map of \(2, 7\) is smaller than the window \(3, 3\)"),
        ((2, 4, 17, 8), r"the output map is \(15, 6\), but the position tables cover feat_size=\(14, 14\)"),
    ],
)
def test_inputs_that_do_not_fit_get_a_sentence(shape, message):
    with pytest.raises(ValueError, match=message):
        make()(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize(
    ("ratio", "message"),
    [
        (-0.1, "key_ratio must not be negative, got -0.1"),
        (float("inf"), "key_ratio must be finite, got inf"),
        (float("nan"), "key_ratio must be finite, got nan"),
        ("1/2", "key_ratio must be a number, got '1/2'"),
        (True, "key_ratio must be a number, got True"),
    ],
)
def test_ratios_that_make_no_sense_get_a_sentence(ratio, message):
    with pytest.raises(ValueError, match=message):
        AugmentedConv2d.from_ratios(4, 8, 3, key_ratio=ratio, value_ratio=0.5, feat_size=4)


ONE_CONVOLUTION = [
    {"padding": 1},
    {"padding": 2, "stride": 2, "dilation": 2},
    {"kernel_size": 4, "qkv_kernel_size": 4, "padding": "same"},
    {"padding": 1, "padding_mode": "reflect"},
    {"padding": 1, "bias": False},
    {"padding": 1, "attention_pool": 2},
    {"kernel_size": 1, "qkv_kernel_size": 1},
    {"padding": 1, "position": None},
    {"axes": 1, "padding": 1},
    {"axes": 3, "padding": (1, 0, 1)},
]


@pytest.mark.parametrize("settings", ONE_CONVOLUTION, ids=str)
def test_equal_windows_run_as_one_convolution(settings, monkeypatch):
    layer = make(**{"qkv_kernel_size": 3, **settings})
    x = image(*(7, 5, 6)[: settings.get("axes", 2)]).requires_grad_()
    upper = torch.randn_like(layer(x))
    calls = []
    convolve = type(layer)._convolve_and_project
    monkeypatch.setattr(type(layer), "_convolve_and_project", lambda *a: calls.append(1) or convolve(*a))

    def slopes():
        y = layer(x)
        return y, *torch.autograd.grad(y, [x, *layer.parameters()], upper)

    together = slopes()
    assert calls == [1]
    monkeypatch.setattr(type(layer), "_one_convolution", lambda _: False)
    for found, expected in zip(together, slopes(), strict=True):
        torch.testing.assert_close(found, expected)
    assert calls == [1]


@pytest.mark.parametrize(
    "settings",
    [
        {"qkv_kernel_size": 1},
        {"groups": 2},
        {"position": "sine"},
        {"position": "coordconv"},
        {"key_channels": 10, "value_channels": 10},
    ],
    ids=str,
)
def test_other_windows_run_as_two(settings):
    assert not make(**{"qkv_kernel_size": 3, **settings})._one_convolution()


def test_listeners_of_any_kind_get_two_convolutions():
    layer = make(qkv_kernel_size=3)
    assert layer._one_convolution()
    handle = layer.conv_out.register_full_backward_pre_hook(lambda *_: None)
    assert not layer._one_convolution()
    handle.remove()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert not layer._one_convolution()
    handle.remove()
    layer.qkv_conv.forward = lambda x: x
    assert not layer._one_convolution()


def test_a_hook_on_either_convolution_is_called():
    layer, seen = make(qkv_kernel_size=3), []
    layer.qkv_conv.register_forward_hook(lambda *_: seen.append("qkv"))
    layer.conv_out.register_forward_hook(lambda *_: seen.append("out"))
    layer(image(5, 6))
    assert sorted(seen) == ["out", "qkv"]


@pytest.mark.parametrize("qkv_kernel_size", [1, 3])
def test_channels_last_is_kept_and_the_layer_copies_no_map(qkv_kernel_size):
    layer = make(padding=1, feat_size=24, qkv_kernel_size=qkv_kernel_size, impl="blocked", dtype=torch.float32)
    layer, x = layer.to(memory_format=torch.channels_last), image(24, 20).float()
    x = x.to(memory_format=torch.channels_last)
    layer(x)
    with torch.no_grad(), torch.profiler.profile() as seen:
        y = layer(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    inside = [
        e.time_range for e in seen.events() if e.name in ("attnconv::blocked_attention", "aten::conv2d", "aten::cat")
    ]
    assert len(inside) > 3
    layer_itself = {e.name for e in seen.events() if not any(r.start <= e.time_range.start <= r.end for r in inside)}
    assert not {"aten::clone", "aten::contiguous", "aten::copy_"} & layer_itself


@pytest.fixture
def two_threads():
    """On one thread torch takes another convolution for so small a map."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("impl", ["eager", "sdpa", "blocked", "native"])
@pytest.mark.parametrize(
    ("map_size", "layout"),
    [
        *((size, torch.contiguous_format) for size in ((9,), (5, 6), (1, 1), (1, 7), (2, 3, 4))),
        *((size, torch.channels_last) for size in ((5, 6), (1, 1), (1, 7))),
        ((2, 3, 4), torch.channels_last_3d),
    ],
    ids=str,
)
@pytest.mark.parametrize("settings", [{}, {"qkv_kernel_size": 3}, {"attention_pool": 2}, {"out_channels": 4}], ids=str)
def test_gradients_have_the_strides_of_their_parameters(settings, map_size, layout, impl, two_threads):
    """DDP copies those that have not, and warns."""
    if impl == "native" and native.MISSING:
        impl = "auto"
    layer = make(len(map_size), padding=1, impl=impl, dtype=torch.float32, **settings).to(memory_format=layout)
    layer(image(*map_size).float().to(memory_format=layout)).square().mean().backward()
    assert {n: p.grad.stride() for n, p in layer.named_parameters()} == {
        n: p.stride() for n, p in layer.named_parameters()
    }


@pytest.mark.parametrize(("x", "got"), [(None, "NoneType"), (torch.ones(2, 4, 5, 5).byte(), "torch.uint8")])
def test_what_is_no_floating_point_tensor_gets_a_sentence(x, got):
    with pytest.raises(TypeError, match=f"the input of AugmentedConv2d must be a floating point tensor, got {got}"):
        make(padding=1)(x)
