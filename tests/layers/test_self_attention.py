"""SelfAttention (SAGAN) and SimpleSelfAttention against loops, and under spectral norm."""

import copy

import numpy as np
import oracles
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from attnconv import SelfAttention, SimpleSelfAttention

KINDS = {
    "sagan": SelfAttention,
    "sagan without norm": lambda c: SelfAttention(c, spectral_norm=False),
    "sagan whole": lambda c: SelfAttention(c, value_ratio=1 / 2, pool=2, bias=True),
    "sagan pooled": lambda c: SelfAttention(c, key_ratio=1 / 2, pool=2, spectral_norm=False),
    "sagan with out": lambda c: SelfAttention(c, value_ratio=1 / 3),
    "simple": SimpleSelfAttention,
    "simple symmetric": lambda c: SimpleSelfAttention(c, symmetric=True),
    "simple normalised": lambda c: SimpleSelfAttention(c, normalize=True),
    "simple without norm": lambda c: SimpleSelfAttention(c, spectral_norm=False),
}
NORMED = ["sagan", "sagan whole", "simple", "simple symmetric"]


def make(kind, channels=6, gamma=0.7, dtype=torch.float64):
    torch.manual_seed(0)
    layer = KINDS[kind](channels).to(dtype).eval()
    nn.init.constant_(layer.gamma, gamma)
    return layer


def image(*map_size, channels=6, dtype=torch.float64):
    return torch.randn(2, channels, *map_size, generator=torch.Generator().manual_seed(3), dtype=dtype)


def expected(layer, x):
    if isinstance(layer, SelfAttention) and (layer.pool > 1 or layer.out is not None):
        return oracles.sagan_layer(layer, x)
    if isinstance(layer, SelfAttention):
        return oracles.sagan(x, layer.query.weight, layer.key.weight, layer.value.weight, layer.gamma.item())
    return oracles.bilinear_attention(x, layer.conv.weight, layer.gamma.item(), normalize=layer.normalize)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("map_size", [(7,), (3, 5), (2, 1, 3), (2, 3, 4, 1)])
def test_matches_the_loops(kind, map_size):
    layer, x = make(kind), image(*map_size)
    torch.testing.assert_close(layer(x).detach(), torch.from_numpy(expected(layer, x)))


def papers_code(x, theta, phi, g, o, sigma):
    """The layer as the paper's TensorFlow code writes it: x (B, H, W, C), H and W even, weights (inputs, outputs)."""
    batch, height, width, _ = x.shape

    def pooled(t):
        blocks = t.reshape(batch, height // 2, 2, width // 2, 2, -1)
        return blocks.max(axis=(2, 4)).reshape(batch, height * width // 4, -1)

    logits = (x @ theta).reshape(batch, height * width, -1) @ pooled(x @ phi).transpose(0, 2, 1)
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    mixed = (shares @ pooled(x @ g)).reshape(batch, height, width, -1)
    return x + sigma * (mixed @ o)


def test_it_is_the_papers_code():
    torch.manual_seed(0)
    layer, x = SelfAttention(16, value_ratio=1 / 2, pool=2).double().eval(), image(4, 6, channels=16)
    nn.init.constant_(layer.gamma, 0.7)
    assert (layer.key.out_channels, layer.value.out_channels) == (2, 8)
    theta, phi, g, o = (
        conv.weight[:, :, 0].detach().T.numpy() for conv in (layer.key, layer.query, layer.value, layer.out)
    )
    y = papers_code(x.movedim(1, -1).numpy(), theta, phi, g, o, 0.7)
    torch.testing.assert_close(layer(x).detach().movedim(1, -1), torch.from_numpy(y), rtol=1e-13, atol=1e-13)


def test_a_layer_without_options_is_drawn_as_before():
    torch.manual_seed(0)
    layer = SelfAttention(16)
    assert layer.out is None
    torch.manual_seed(0)
    for name, width in (("query", 2), ("key", 2), ("value", 16)):
        conv = nn.Conv1d(16, width, 1, bias=False)
        nn.init.kaiming_normal_(conv.weight)
        parametrizations.spectral_norm(conv)
        assert torch.equal(getattr(layer, name).parametrizations.weight.original, conv.parametrizations.weight.original)
        assert torch.equal(getattr(layer, name).weight, conv.weight)
    assert [name for name, _ in layer.named_parameters()] == [
        "gamma",
        *(f"{name}.parametrizations.weight.original" for name in ("query", "key", "value")),
    ]


@pytest.mark.parametrize(("map_size", "pooled"), [((7,), (3,)), ((1, 6), (1, 3)), ((2, 5, 4), (1, 2, 2))])
def test_the_odd_end_is_dropped_and_an_axis_of_one_is_not_pooled(map_size, pooled):
    layer, x = make("sagan whole"), image(*map_size)
    found = layer.attention_weights(x[:1])((0,) * len(map_size))
    assert found.shape == (1, *pooled)
    assert found.sum().item() == pytest.approx(1)


def test_query_and_key_are_not_interchangeable():
    layer, x = make("sagan", 16), image(3, 5, channels=16)
    before = layer(x)
    layer.query, layer.key = layer.key, layer.query
    assert (layer(x) - before).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_new_layer_returns_its_input_exactly(kind, dtype):
    layer, x = KINDS[kind](6).to(dtype), image(3, 5, dtype=dtype)
    assert torch.equal(layer(x), x)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind):
    layer, x = make(kind, 3), image(2, 2, channels=3).requires_grad_()
    names = [name for name, _ in layer.named_parameters()]

    def call(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *layer.parameters()))


@pytest.mark.parametrize("masked", [False, True])
def test_second_derivatives_of_pooled_keys(masked):
    layer, x = make("sagan pooled"), image(4, 5).requires_grad_()
    mask = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(1)) > 0.4
    mask[1] = False
    assert torch.autograd.gradgradcheck(lambda x: layer(x, mask if masked else None), (x,))


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_stays_close(kind):
    layer, x = make(kind, dtype=torch.float32).train(), image(3, 5, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        y.square().mean().backward()
    torch.testing.assert_close(y, layer.eval()(x), rtol=0.1, atol=0.1)
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_channels_last(kind):
    layer, x = make(kind), image(3, 5)
    y, last = layer(x), layer(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, y)
    assert y.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_gradients_have_the_strides_of_their_parameters(kind, layout):
    layer = make(kind, dtype=torch.float32).to(memory_format=layout)
    layer(image(3, 5, dtype=torch.float32).to(memory_format=layout)).square().mean().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.stride() == parameter.stride(), name


def weights_of(layer):
    return [m.weight[:, :, 0] for m in layer.modules() if isinstance(m, nn.Conv1d)]


@pytest.mark.parametrize("kind", NORMED)
def test_the_largest_singular_value_is_one(kind):
    """Above all for the symmetric weight: normalised before it was made symmetric, its value would be near 0.7."""
    layer = make(kind, 12).train()
    for _ in range(300):  # each reading in training is a step of the power iteration
        weights_of(layer)
    sizes = torch.stack([torch.linalg.matrix_norm(w, 2) for w in weights_of(layer.eval())])
    torch.testing.assert_close(sizes, torch.ones_like(sizes), rtol=1e-6, atol=0)


def test_the_symmetric_weight_is_symmetric_and_trains():
    layer, x = make("simple symmetric"), image(3, 5)
    assert torch.equal(layer.conv.weight, layer.conv.weight.transpose(0, 1))
    before = layer.conv.weight.detach().clone()
    layer(x).square().sum().backward()
    torch.optim.SGD(layer.parameters(), lr=1e-3).step()
    assert not torch.equal(layer.conv.weight, before)
    assert torch.equal(layer.conv.weight, layer.conv.weight.transpose(0, 1))


def buffers(layer):
    return {name: buffer.clone() for name, buffer in layer.named_buffers()}


@pytest.mark.parametrize("kind", NORMED)
def test_training_takes_one_step_of_the_power_iteration_and_eval_none(kind):
    layer, x = make(kind, 12), image(3, 5, channels=12)
    before = buffers(layer)
    layer(x)
    torch.testing.assert_close(buffers(layer), before, rtol=0, atol=0)

    by_hand = copy.deepcopy(layer).train()
    weights_of(by_hand)
    layer.train()(x)
    torch.testing.assert_close(buffers(layer), buffers(by_hand), rtol=0, atol=0)
    assert any(not torch.equal(b, before[name]) for name, b in buffers(layer).items())


@pytest.mark.parametrize("kind", NORMED)
def test_ema_copies_keep_their_constraints(kind):
    layer, x = make(kind).train(), image(3, 5)
    ema = AveragedModel(layer, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    for p in layer.parameters():
        nn.init.normal_(p)
    ema.update_parameters(layer)
    ema.update_parameters(layer)
    for _ in range(300):
        ema.train()(x)
    sizes = [torch.linalg.matrix_norm(w, 2).item() for w in weights_of(ema.module.eval())]
    assert sizes == pytest.approx([1] * len(sizes), rel=1e-5)
    assert weights_of(layer)[0].shape == weights_of(ema.module)[0].shape  # the original kept its own parametrization


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_round_trip(kind):
    one, two, x = make(kind), KINDS[kind](6).double().eval(), image(3, 5)
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(x), two(x))


def old_style(layer_kind, channels=6, iterations=1):
    """State dict and output of a SAGAN or simple layer under torch.nn.utils.spectral_norm, the old hooks."""
    torch.manual_seed(5)
    names = {"sagan": ("query", "key", "value"), "simple": ("conv",)}[layer_kind]
    widths = {"query": 1, "key": 1}
    module = nn.Module()
    module.gamma = nn.Parameter(torch.full((1,), 0.4, dtype=torch.float64))
    for name in names:
        conv = nn.Conv1d(channels, widths.get(name, channels), 1, bias=False).double()
        module.add_module(name, torch.nn.utils.spectral_norm(conv, n_power_iterations=iterations))
        getattr(module, name)(torch.ones(1, channels, 1, dtype=torch.float64))
    module.eval()
    x = image(3, 5, channels=channels)
    weights = [getattr(module, name)(torch.eye(channels, dtype=torch.float64)[None]).detach()[0] for name in names]
    if layer_kind == "sagan":
        y = oracles.sagan(x, *(w[:, :, None] for w in weights), 0.4)
    else:
        y = oracles.bilinear_attention(x, weights[0], 0.4)
    return module.state_dict(), x, torch.from_numpy(y)


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*")
@pytest.mark.parametrize("kind", ["sagan", "simple", "sagan without norm", "simple without norm"])
def test_old_checkpoints_load_and_give_their_numbers(kind):
    state, x, y = old_style(kind.split()[0])
    assert any(name.endswith("weight_orig") for name in state)
    layer = KINDS[kind](6).double().eval()
    layer.load_state_dict(state)
    torch.testing.assert_close(layer(x).detach(), y)


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*")
@pytest.mark.parametrize("kind", ["sagan", "simple", "sagan without norm", "simple without norm"])
def test_checkpoints_of_torch_1_0_hold_the_divided_weight_in_place_of_v(kind):
    state, x, y = old_style(kind.split()[0])
    for name in [name for name in state if name.endswith("weight_v")]:
        v, u = state.pop(name), state[name[:-1] + "u"]
        original = state[name[:-1] + "orig"]
        state[name[:-2]] = original / torch.dot(u, original[:, :, 0] @ v)
    layer = KINDS[kind](6).double().eval()
    layer.load_state_dict(state)
    torch.testing.assert_close(layer(x).detach(), y)


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*")
def test_checkpoints_with_neither_get_v_from_u():
    state, x, y = old_style("simple", iterations=500)
    del state["conv.weight_v"]
    layer = SimpleSelfAttention(6).double().eval()
    layer.load_state_dict(state)
    torch.testing.assert_close(layer(x).detach(), y, rtol=1e-6, atol=1e-6)


def test_a_checkpoint_without_u_gets_the_report_of_torch():
    with pytest.raises(RuntimeError, match=r"Missing key\(s\).*conv\.parametrizations"):
        SimpleSelfAttention(6).load_state_dict({"gamma": torch.zeros(1), "conv.weight_orig": torch.zeros(6, 6, 1)})


@pytest.mark.parametrize("kind", ["sagan", "simple"])
@pytest.mark.parametrize("shape", [(6, 3), (3, 5, 3, 5), (2, 5, 3)])
def test_inputs_that_do_not_fit_get_a_sentence(kind, shape):
    with pytest.raises(ValueError, match=r"takes \(B, 6, \*map\), with a batch axis; got"):
        KINDS[kind](6)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"channels": 4, "key_ratio": 0}, "key_ratio must be above 0 and at most 1, got 0"),
        ({"channels": 4, "key_ratio": 2}, "key_ratio must be above 0 and at most 1, got 2"),
        ({"channels": 4, "key_ratio": "a"}, "key_ratio must be a number, got 'a'"),
        ({"channels": 4, "value_ratio": 0}, "value_ratio must be above 0 and at most 1, got 0"),
        ({"channels": 4, "value_ratio": 1.5}, "value_ratio must be above 0 and at most 1, got 1.5"),
        ({"channels": 4, "pool": 3}, "pool must be 1 or 2, got 3"),
        ({"channels": 4, "pool": 0}, "pool must be at least 1, got 0"),
        ({"channels": 4, "bias": 1}, "bias must be"),
    ],
)
def test_settings_that_do_not_fit_get_a_sentence(settings, message):
    with pytest.raises(ValueError, match=message):
        SelfAttention(**settings)


@pytest.mark.parametrize(("channels", "ratio", "width"), [(64, 1 / 8, 8), (5, 1 / 8, 1), (20, 0.5, 10)])
def test_key_and_value_channels(channels, ratio, width):
    layer = SelfAttention(channels, key_ratio=ratio, value_ratio=ratio)
    assert layer.query.weight.shape == layer.value.weight.shape == (width, channels, 1)
    assert layer.out.weight.shape == (channels, width, 1)


def test_every_convolution_has_a_bias_or_none():
    for bias in (True, False):
        layer = SelfAttention(6, value_ratio=1 / 2, bias=bias)
        assert [conv.bias is not None for conv in layer.children()] == [bias] * 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_a_closed_gate_returns_the_input_where_the_products_pass_the_largest_number(kind, training):
    layer, x = KINDS[kind](6).train(training), 1e30 * image(3, 5, dtype=torch.float32)
    assert torch.equal(layer(x), x)
    with torch.no_grad():
        assert torch.equal(layer(x), x)
        nn.init.ones_(layer.gamma)
        assert not layer(x).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_closed_gate_has_its_slope(kind):
    layer, x = make(kind, gamma=0.0), image(3, 5)
    (slope,) = torch.autograd.grad(layer(x).sum(), layer.gamma)
    nn.init.ones_(layer.gamma)
    torch.testing.assert_close(slope.squeeze(), (layer(x) - x).sum().detach())


@pytest.mark.parametrize(
    ("x", "got"),
    [
        (None, "NoneType"),
        (torch.zeros(2, 6, 3).numpy(), "ndarray"),
        (torch.zeros(2, 6, 3, dtype=torch.uint8), r"torch\.uint8"),
        (torch.zeros(2, 6, 3).to(torch.float8_e5m2), r"torch\.float8_e5m2"),
    ],
)
@pytest.mark.parametrize("kind", ["sagan", "simple"])
def test_what_is_no_floating_point_tensor_gets_a_sentence(kind, x, got):
    with pytest.raises(TypeError, match=rf"the input of \w+Attention must be a floating point tensor, got {got}"):
        KINDS[kind](6)(x)
