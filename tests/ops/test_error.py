"""Rounding errors of every kernel, in every dtype, against the float64 loops; tables and gradients too.

The measure is plain arithmetic, with every product and the softmax in the dtype of the inputs. A kernel may err twice
as much, plus a floor in roundings of the largest number: two of the dtype in which results are stored, and eight of
float32, in which all kernels accumulate and a backward makes the weights again from the log-sum-exp. (The largest seen
of a gradient in float32 is 7 roundings, in half precision 1.5.) The bound of "sdpa", whose position terms round to the
dtype of q before they enter the logits, is the same: plain arithmetic rounds them as well.
"""

import functools

import oracles
import pytest
import torch

from attnconv import ops

STORED, ACCUMULATED = 2, 8
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
KERNELS = ["eager", "blocked", "native", "sdpa"]  # "triton": test_triton.py in float32, test_gpu.py in all
SHAPES = {  # map, D, E
    "short": ((3, 2), 4, 3),
    "uneven": ((9, 7), 20, 4),
    "sequence": ((31,), 8, 2),
    "larger": ((17, 19), 8, 2),
    "volume": ((3, 5, 2), 16, 8),
    "wide heads": ((5, 7), 64, 32),
    "values wider than keys": ((6, 5), 3, 40),
}


def draw(shape, dtype):
    """Inputs as layers make them, with position terms as large as the products with the keys."""
    map_size, d, e = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    sizes = [(2, 3, *map_size, d)] * 2 + [(2, 3, *map_size, e)] + [(2 * n - 1, d) for n in map_size]
    return [torch.randn(size, generator=generator).to(dtype) for size in sizes]


def plain(q, k, v, *rel):
    """Every product and the softmax in the dtype of the inputs."""
    axes = q.dim() - 3
    logits = torch.einsum("bn...d,bnjd->bn...j", q, k.flatten(2, -2)).unflatten(-1, q.shape[2:-1])
    for axis, table in enumerate(rel):
        n = q.shape[2 + axis]
        steps = torch.arange(n)
        r = table[steps[None] - steps[:, None] + n - 1]
        term = torch.einsum("...id,ijd->...ij", q.movedim(2 + axis, -2), r).movedim(-2, 2 + axis)
        logits = logits + term.unflatten(-1, [n if a == axis else 1 for a in range(axes)])
    weights = (logits.flatten(-axes) * q.shape[-1] ** -0.5).softmax(-1)
    return torch.einsum("bn...j,bnje->bn...e", weights, v.flatten(2, -2))


def kernel(impl):
    return lambda q, k, v, *rel: ops.relative_attention(q, k, v, rel, impl=impl)


def gradients(call, inputs):
    inputs = [t.detach().requires_grad_() for t in inputs]
    y = call(*inputs)
    upper = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape).to(y.dtype)
    return torch.autograd.grad(y, inputs, upper)


def bound(ordinary, exact, dtype):
    roundings = STORED * torch.finfo(dtype).eps + ACCUMULATED * torch.finfo(torch.float32).eps
    return 2 * (ordinary.double() - exact).abs().max() + roundings * exact.abs().max()


@functools.cache
def outputs_of(shape, dtype):
    """The exact output, by the loops, and that of plain arithmetic."""
    q, k, v, *rel = inputs = draw(shape, dtype)
    return torch.from_numpy(oracles.relative_attention(q, k, v, rel)), plain(*inputs)


@functools.cache
def gradients_of(shape, dtype):
    """The exact gradients, and those of plain arithmetic."""
    inputs = draw(shape, dtype)
    return gradients(plain, [t.double() for t in inputs]), gradients(plain, inputs)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        # The loops take seconds for the larger map.
        pytest.param(shape, dtype, marks=[pytest.mark.slow] * (shape == "larger"))
        for shape in SHAPES
        for dtype in DTYPES
    ],
)
@pytest.mark.parametrize("impl", KERNELS)
def test_the_output_errs_at_most_twice_as_much_as_plain_arithmetic(impl, shape, dtype):
    exact, usual = outputs_of(shape, dtype)
    y = kernel(impl)(*draw(shape, dtype))
    assert y.dtype == dtype
    assert (y.double() - exact).abs().max() <= bound(usual, exact, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("impl", KERNELS)
def test_gradients_err_at_most_twice_as_much_as_those_of_plain_arithmetic(impl, shape, dtype):
    found_ones = gradients(kernel(impl), draw(shape, dtype))
    for found, exactly, usual in zip(found_ones, *gradients_of(shape, dtype), strict=True):
        assert found.dtype == dtype
        assert (found.double() - exactly).abs().max() <= bound(usual, exactly, dtype)


@pytest.mark.parametrize("impl", ["auto", "blocked"])
def test_a_backward_inside_autocast_is_as_exact_as_one_outside(impl):
    inputs = draw("larger", torch.float32)

    def slopes(inside):
        given = [t.clone().requires_grad_() for t in inputs]
        with torch.autocast("cpu", torch.bfloat16):
            y = kernel(impl)(*given).float().square().sum()
            if inside:
                y.backward()
        if not inside:
            y.backward()
        return [t.grad for t in given]

    for found, expected in zip(slopes(True), slopes(False), strict=True):
        torch.testing.assert_close(found, expected)


def test_the_bound_catches_a_wrong_table():
    q, k, v, *rel = inputs = draw("uneven", torch.bfloat16)
    exact = torch.from_numpy(oracles.relative_attention(q, k, v, rel))
    wrong = ops.relative_attention(q, k, v, [rel[0].roll(1, 0), rel[1]])
    assert (wrong.double() - exact).abs().max() > bound(plain(*inputs), exact, torch.bfloat16)
