"""ops.bilinear_attention against loops, its three orders, its precision."""

import sys

import oracles
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from attnconv import ops
from attnconv.ops.bilinear_attention import fastest_order

ORDERS = ["auto", "scores", "gram", "gram_weight"]


def inputs(channels=4, map_size=(3, 5), dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, channels, *map_size, generator=generator, dtype=torch.float64)
    weight = torch.randn(channels, channels, generator=generator, dtype=torch.float64)
    return x.to(dtype), weight.to(dtype)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("map_size", [(6,), (3, 5), (2, 1, 3)])
def test_matches_the_loops(order, symmetric, normalize, map_size):
    x, weight = inputs(map_size=map_size)
    y = ops.bilinear_attention(x, weight, 0.7, symmetric=symmetric, normalize=normalize, order=order)
    expected = oracles.bilinear_attention(x, weight, 0.7, symmetric, normalize)
    torch.testing.assert_close(y, torch.from_numpy(expected))


def test_symmetric_is_not_the_plain_weight():
    x, weight = inputs()
    plain = ops.bilinear_attention(x, weight, 1.0)
    assert (ops.bilinear_attention(x, weight, 1.0, symmetric=True) - plain).abs().max() > 1


def test_symmetric_reads_the_transpose_alike():
    x, weight = inputs()
    torch.testing.assert_close(
        ops.bilinear_attention(x, weight, 1.0, symmetric=True), ops.bilinear_attention(x, weight.T, 1.0, symmetric=True)
    )


def test_a_convolution_weight_is_accepted():
    x, weight = inputs()
    assert torch.equal(ops.bilinear_attention(x, weight[:, :, None], 1.0), ops.bilinear_attention(x, weight, 1.0))


@pytest.mark.parametrize("gamma", [0.0, torch.zeros(()), torch.zeros(1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_gamma_zero_returns_x_exactly(gamma, dtype):
    x, weight = inputs(dtype=dtype)
    assert torch.equal(ops.bilinear_attention(x, weight, gamma), x)


@pytest.mark.parametrize("order", ORDERS[1:])
def test_gradients(order):
    x, weight = inputs(channels=3, map_size=(2, 2))
    gamma = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    arguments = (x.requires_grad_(), weight.requires_grad_(), gamma)
    assert torch.autograd.gradcheck(lambda *a: ops.bilinear_attention(*a, order=order, symmetric=True), arguments)


@pytest.mark.parametrize("order", ORDERS[1:])
def test_second_derivatives(order):
    x, weight = inputs(channels=3, map_size=(2, 1))
    gamma = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    arguments = (x[:1].requires_grad_(), weight.requires_grad_(), gamma)
    assert torch.autograd.gradgradcheck(lambda *a: ops.bilinear_attention(*a, order=order), arguments)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("channels", "map_size"), [(4, (3, 5)), (9, (2, 3))], ids=["gram_weight", "scores"])
def test_gradients_are_those_of_the_literal_form(channels, map_size, channels_last):
    x, weight = inputs(channels, map_size)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    gamma = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    arguments = (x.requires_grad_(), weight.requires_grad_(), gamma)
    upper = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).reshape(x.shape)

    def slopes(order):
        return torch.autograd.grad(ops.bilinear_attention(*arguments, order=order, normalize=True), arguments, upper)

    for found, expected in zip(slopes("auto"), slopes("gram"), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("channels", "map_size"), [(4, (3, 5)), (9, (2, 3))], ids=["gram_weight", "scores"])
def test_channels_last_stays_so(channels, map_size):
    x, weight = inputs(channels, map_size)
    y = ops.bilinear_attention(x.to(memory_format=torch.channels_last), weight, 0.5)
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("order", ["scores", "gram", "gram_weight"])
def test_products_beyond_float16_are_not_made_in_it(order, monkeypatch):
    monkeypatch.setattr(sys.modules["attnconv.ops.bilinear_attention"], "CPU_MULTIPLIES_BFLOAT16", True)
    x = 6 * torch.randn(1, 8, 4096, generator=torch.Generator().manual_seed(0))
    y = ops.bilinear_attention(x.half(), torch.eye(8), 1e-5, order=order)
    assert (x @ x.mT).max() > torch.finfo(torch.float16).max
    torch.testing.assert_close(y.float(), ops.bilinear_attention(x, torch.eye(8), 1e-5), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_the_maps_only_the_input_is_kept_for_the_backward(dtype):
    x, weight = inputs(6, (8, 5), dtype=dtype)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        ops.bilinear_attention(x.requires_grad_(), weight.requires_grad_(), torch.ones(1, requires_grad=True))
    maps = [t for t in kept if t.shape[-1:] == (40,)]
    assert [t.data_ptr() for t in maps] == [x.data_ptr()]


@pytest.mark.parametrize("positions", [4, 40], ids=["scores", "gram_weight"])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_backward_inside_autocast_is_as_exact_as_one_outside(positions, compiled):
    x, weight = inputs(6, (positions,), dtype=torch.float32)
    torch.compiler.reset()
    call = ops.bilinear_attention
    if compiled:
        call = torch.compile(call, fullgraph=True, backend="aot_eager")

    def slopes(inside):
        given = x.clone().requires_grad_(), weight.clone().requires_grad_(), torch.full((1,), 0.1, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            y = call(*given).square().sum()
            if inside:
                y.backward()
        if not inside:
            y.backward()
        return [t.grad for t in given]

    for found, expected in zip(slopes(True), slopes(False), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("order", ORDERS)
def test_no_images(order):
    x, weight = inputs()
    assert ops.bilinear_attention(x[:0], weight, 0.5, order=order).shape == (0, *x.shape[1:])


def test_a_frozen_weight_costs_no_product():
    x, weight = inputs()

    def flops():
        y = ops.bilinear_attention(x.requires_grad_(), weight, 0.5)
        with FlopCounterMode(display=False) as counter:
            y.sum().backward()
        return counter.get_total_flops()

    frozen = flops()
    weight.requires_grad_()
    assert frozen < flops()


@pytest.fixture
def rounded_products(request, monkeypatch):
    """Products of bfloat16 as a processor makes them that has instructions for them, or has none."""
    module = sys.modules["attnconv.ops.bilinear_attention"]
    monkeypatch.setattr(module, "CPU_MULTIPLIES_BFLOAT16", request.param)


@pytest.mark.parametrize("rounded_products", [True], indirect=True)
@pytest.mark.usefixtures("rounded_products")
@pytest.mark.parametrize(("gamma", "normalize"), [(1.0, True), (0.1, False)])
def test_rounded_products_err_at_most_twice_as_much_as_the_rounded_result(gamma, normalize):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 256, 32, 32, generator=generator).bfloat16()
    weight = torch.randn(256, 256, generator=generator)
    weight /= torch.linalg.matrix_norm(weight, 2)
    upper = torch.randn(x.shape, generator=generator).bfloat16()

    def results(dtype):
        given = x.to(dtype).requires_grad_(), weight.to(torch.promote_types(dtype, torch.float32)).requires_grad_()
        gate = torch.full((1,), gamma, dtype=given[1].dtype, requires_grad=True)
        y = ops.bilinear_attention(*given, gate, normalize=normalize)
        return [y.detach(), *torch.autograd.grad(y, (*given, gate), upper.to(dtype))]

    def size(t):
        return torch.linalg.vector_norm(t.double())

    exact, found = results(torch.float64), results(torch.bfloat16)
    for e, f, times in zip(exact[:2], found[:2], (2, 3), strict=True):
        assert size(f - e) <= times * size(e.bfloat16() - e)
    for e, f in zip(exact[2:], found[2:], strict=True):  # of the weight and gamma, in float32
        assert f.dtype == torch.float32
        assert size(f - e) <= torch.finfo(torch.bfloat16).eps * size(e)


@pytest.mark.parametrize("rounded_products", [False], indirect=True)
@pytest.mark.usefixtures("rounded_products")
@pytest.mark.parametrize("positions", [4, 40])
def test_half_precision_errs_no_more_than_its_own_rounding(positions):
    x, weight = inputs(6, (positions,))
    exact = ops.bilinear_attention(x.bfloat16().double(), weight.bfloat16().double(), 0.1)
    y = ops.bilinear_attention(x.bfloat16(), weight.bfloat16(), 0.1)
    torch.testing.assert_close(y.double(), exact, rtol=torch.finfo(torch.bfloat16).eps, atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "positions", "macs"),
    [(8, 3, 3 * 64 + 2 * 9 * 8), (4, 20, 2 * 20 * 16 + 64), (5, 5, 3 * 125)],
)
def test_auto_runs_the_fastest_order(channels, positions, macs):
    x, weight = inputs(channels, (positions,))
    costs = {}
    for order in ORDERS:
        with FlopCounterMode(display=False) as counter:
            ops.bilinear_attention(x[:1], weight, 1.0, order=order)
        costs[order] = counter.get_total_flops()
    assert costs["auto"] == 2 * macs == min(costs.values())


@pytest.mark.parametrize(
    ("channels", "positions", "order"),
    [(1024, 256, "scores"), (512, 64, "scores"), (256, 1024, "gram_weight"), (256, 4096, "gram_weight")],
)
def test_the_choice_is_by_cost(channels, positions, order):
    assert fastest_order(channels, positions) == order


def spread_of_three(seed, dtype=torch.float16):
    """x (1, 512, 64, 64) of standard deviation 3, and a weight whose largest singular value is 1."""
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(1, 512, 64, 64, generator=generator)
    weight = torch.randn(512, 512, generator=generator)
    return x.to(dtype), (weight / torch.linalg.matrix_norm(weight, 2)).to(dtype)


@pytest.mark.parametrize(("gamma", "normalize"), [(1.0, True), (-1.0, True), (0.1, False), (-0.1, False)])
def test_half_precision_neither_overflows_nor_makes_nan(gamma, normalize):
    x, weight = spread_of_three(0)
    x.requires_grad_()
    gate = torch.tensor([gamma], requires_grad=True)
    y = ops.bilinear_attention(x, weight, gate, normalize=normalize)
    y.backward(torch.full_like(y, 1e-4))
    assert y.dtype == torch.float16
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
    assert gate.grad.isfinite().all()


def test_the_exact_result_itself_passes_half_precision_at_gamma_one():
    x, weight = spread_of_three(0, torch.float32)
    assert ops.bilinear_attention(x, weight, 1.0).abs().max() > 65_504


@pytest.mark.parametrize("rounded_products", [False], indirect=True)
@pytest.mark.usefixtures("rounded_products")
def test_the_gradient_of_gamma_is_summed_in_float32():
    x, weight = inputs(64, (32, 32), torch.bfloat16)
    gamma = torch.zeros(1, requires_grad=True)
    ops.bilinear_attention(x, weight, gamma, normalize=True).sum().backward()
    exact = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    ops.bilinear_attention(x.double(), weight.double(), exact, normalize=True).sum().backward()
    assert gamma.grad.dtype == torch.float32
    torch.testing.assert_close(gamma.grad.double(), exact.grad, rtol=1e-4, atol=1e-2)


def test_autocast_does_not_round_the_products():
    x, weight = inputs(8, (5, 5), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = ops.bilinear_attention(x, weight, 0.5)
    assert torch.equal(y, ops.bilinear_attention(x, weight, 0.5))


def change(**replaced):
    x, weight = inputs()
    return {"x": x, "weight": weight, "gamma": 1.0, **replaced}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (change(order="gramm"), "unknown order 'gramm'; nearest: 'gram'"),
        (change(x=torch.ones(2, 4)), r"x must be \(batch, channels, \*map\), got \(2, 4\)"),
        (change(x=torch.ones(2, 4, 3, dtype=torch.int32)), r"x must be a floating point tensor, got torch\.int32"),
        (change(weight=torch.ones(4, 5)), r"weight must be \(4, 4\), x having 4 channels; got \(4, 5\)"),
        (change(weight=torch.ones(4, 4, 3)), r"weight must be \(4, 4\)"),
        (change(weight=torch.ones(4, 4, device="meta")), "x and weight must be on one device"),
        (change(gamma=torch.ones(2)), r"gamma must hold one element, got shape \(2,\)"),
    ],
)
def test_bad_input_gets_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        ops.bilinear_attention(**arguments)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gamma_zero_returns_x_where_the_products_pass_the_largest_number(order, trained, dtype):
    x, weight = inputs(dtype=dtype)
    x, weight, gamma = 1e30 * x, weight.requires_grad_(trained), torch.zeros(1, requires_grad=trained)
    assert not ops.bilinear_attention(x, weight, 1.0, order=order).isfinite().all()
    assert torch.equal(ops.bilinear_attention(x, weight, gamma, order=order), x)


@pytest.mark.parametrize("order", ORDERS[1:])
def test_gamma_zero_has_its_slope_and_second_derivatives(order):
    x, weight = inputs(3, (2, 2))
    given = (x.requires_grad_(), weight.requires_grad_(), torch.zeros(1, dtype=torch.float64, requires_grad=True))
    call = lambda x, weight, gamma: ops.bilinear_attention(x, weight, gamma, order=order)  # noqa: E731
    assert torch.autograd.grad(call(*given).sum(), given[2])[0].abs() > 1e-3
    assert torch.autograd.gradcheck(call, given)
    assert torch.autograd.gradgradcheck(call, given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (change(x=None), "x must be a floating point tensor, got NoneType"),
        (change(x=[1.0]), "x must be a floating point tensor, got list"),
        (change(weight=torch.ones(4, 4).to(torch.float8_e4m3fn)), r"weight must be .*, got torch\.float8_e4m3fn"),
        (change(gamma=None), "gamma must be a number, got NoneType"),
        (change(gamma="open"), "gamma must be a number, got str"),
        (change(mask=torch.ones(2, 3, 5)), "mask must be a bool tensor, True where there is image; got torch"),
        (
            change(mask=torch.ones(2, 15, dtype=torch.bool)),
            r"mask must be \(batch, \*map\), \(2, 3, 5\); got",
        ),
    ],
)
def test_what_is_no_tensor_or_no_number_gets_a_sentence(arguments, message):
    with pytest.raises(TypeError if "must be a" in message else ValueError, match=message):
        ops.bilinear_attention(**arguments)
