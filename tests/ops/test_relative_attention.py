"""ops.relative_attention against loops, in every direction, dtype and number of axes."""

import numpy as np
import oracles
import pytest
import torch
from torch import Tensor

from attnconv import ops

MAPS = [(5,), (3, 5), (5, 3), (1, 4), (2, 3, 4)]


def inputs(map_size, *, d=3, e=2, reach=0, dtype=torch.float64, seed=0):
    """q, k (2, 2, *map, D), v (2, 2, *map, E) and a table for each axis that covers ``reach`` more than the map."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    q, k, v = draw(2, 2, *map_size, d), draw(2, 2, *map_size, d), draw(2, 2, *map_size, e)
    return q, k, v, tuple(draw(2 * (n + reach) - 1, d) for n in map_size)


def assert_matches(y: Tensor, expected, tolerance=1e-12):
    torch.testing.assert_close(y.detach().double(), torch.from_numpy(expected), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("map_size", MAPS)
@pytest.mark.parametrize("reach", [0, 2])
def test_matches_the_loops(map_size, reach):
    q, k, v, rel = inputs(map_size, reach=reach)
    y = ops.relative_attention(q, k, v, rel)
    assert y.shape == v.shape
    assert_matches(y, oracles.relative_attention(q, k, v, rel))


@pytest.mark.parametrize("map_size", MAPS)
def test_matches_the_loops_without_tables(map_size):
    q, k, v, _ = inputs(map_size)
    assert_matches(ops.relative_attention(q, k, v, None), oracles.relative_attention(q, k, v, None))


def test_a_table_of_one_axis_may_be_missing():
    q, k, v, (_, columns) = inputs((3, 4))
    assert_matches(
        ops.relative_attention(q, k, v, (None, columns)), oracles.relative_attention(q, k, v, (None, columns))
    )


def test_tables_that_are_all_missing_are_no_tables():
    q, k, v, _ = inputs((3, 4))
    assert torch.equal(ops.relative_attention(q, k, v, (None, None)), ops.relative_attention(q, k, v, None))


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_scale_multiplies_the_position_terms_too(scale):
    q, k, v, rel = inputs((3, 4))
    assert_matches(
        ops.relative_attention(q, k, v, rel, scale=scale), oracles.relative_attention(q, k, v, rel, scale=scale)
    )


def test_the_default_scale_is_that_of_the_key_channels():
    q, k, v, rel = inputs((3, 4), d=5)
    expected = ops.relative_attention(q, k, v, rel, scale=5**-0.5)
    torch.testing.assert_close(ops.relative_attention(q, k, v, rel), expected)


def test_rows_and_columns_are_told_apart():
    q, k, v, (rows, columns) = inputs((4, 4))
    wrong = ops.relative_attention(q, k, v, (columns, rows))
    assert (wrong - torch.from_numpy(oracles.relative_attention(q, k, v, (rows, columns)))).abs().max() > 0.1


@pytest.mark.parametrize("axis", [0, 1])
def test_both_directions_of_an_axis_are_told_apart(axis):
    q, k, v, rel = inputs((3, 4))
    turned = tuple(t.flip(0) if a == axis else t for a, t in enumerate(rel))
    right = torch.from_numpy(oracles.relative_attention(q, k, v, rel))
    assert (ops.relative_attention(q, k, v, turned) - right).abs().max() > 0.1


@pytest.mark.parametrize(("axis", "direction"), [(0, 1), (0, -1), (1, 1), (1, -1)])
def test_a_table_pulls_towards_the_side_it_names(axis, direction):
    """A single large entry at distance +1 or -1 along an axis makes every query read that neighbour."""
    map_size = (3, 4)
    q = torch.ones(1, 1, *map_size, 1, dtype=torch.float64)
    v = torch.arange(12.0, dtype=torch.float64).reshape(1, 1, *map_size, 1)
    rel = [torch.zeros(2 * n - 1, 1, dtype=torch.float64) for n in map_size]
    rel[axis][map_size[axis] - 1 + direction] = 1e4
    rel[1 - axis][map_size[1 - axis] - 1] = 1e4
    y = ops.relative_attention(q, torch.zeros_like(q), v, rel)[0, 0, 1, 1, 0]
    neighbour = (1 + direction, 1) if axis == 0 else (1, 1 + direction)
    assert y == v[0, 0, *neighbour, 0]


@pytest.mark.parametrize("map_size", [(4,), (2, 3), (2, 2, 2)])
def test_gradients_of_all_inputs(map_size):
    q, k, v, rel = inputs(map_size, d=2, e=3, reach=1)
    arguments = [t.requires_grad_() for t in (q, k, v, *rel)]
    assert torch.autograd.gradcheck(lambda q, k, v, *rel: ops.relative_attention(q, k, v, rel), arguments)


def test_the_eager_form_is_twice_differentiable():
    q, k, v, rel = inputs((2, 2), d=1, e=1)
    arguments = [t[:1].requires_grad_() if t.dim() > 2 else t.requires_grad_() for t in (q, k, v, *rel)]
    assert torch.autograd.gradgradcheck(
        lambda q, k, v, *rel: ops.relative_attention(q, k, v, rel, impl="eager"), arguments
    )


def test_rows_of_a_table_beyond_the_map_get_no_gradient():
    q, k, v, rel = inputs((3, 4), reach=2)
    rel[0].requires_grad_()
    ops.relative_attention(q, k, v, rel).square().sum().backward()
    used = rel[0].grad.abs().sum(1) > 0
    assert used.tolist() == [False] * 2 + [True] * 5 + [False] * 2


def test_non_contiguous_inputs():
    q, k, v, rel = inputs((3, 5))
    strided = [t.movedim(-1, 2).contiguous(memory_format=torch.contiguous_format).movedim(2, -1) for t in (q, k, v)]
    assert not strided[0].is_contiguous()
    # Some CPUs' matrix products add in another order where strides differ.
    torch.testing.assert_close(ops.relative_attention(*strided, rel), ops.relative_attention(q, k, v, rel))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_only_at_its_ends(dtype):
    q, k, v, rel = inputs((5, 7), d=16, e=4, dtype=dtype)
    y = ops.relative_attention(q, k, v, rel)
    assert y.dtype == dtype
    exact = torch.from_numpy(oracles.relative_attention(q, k, v, rel))
    assert (y.double() - exact).abs().max() <= 2**-8 * exact.abs().max() * (1 if dtype == torch.bfloat16 else 2**-3)


def test_half_precision_logits_do_not_overflow():
    q, k, v, rel = inputs((3, 5), d=16, dtype=torch.float16)
    y = ops.relative_attention(q * 100, k * 100, v, rel, scale=1.0)  # logits near 160,000, past float16's 65,504
    assert y.isfinite().all()


def test_autocast_takes_its_dtype_and_still_accumulates_in_float32():
    q, k, v, rel = inputs((5, 7), d=16, e=4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = ops.relative_attention(q, k, v, rel)
    rounded = [t.bfloat16() for t in (q, k, v, *rel)]
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, ops.relative_attention(*rounded[:3], rounded[3:]))


def test_autocast_leaves_float64_alone():
    q, k, v, rel = inputs((3, 4))
    with torch.autocast("cpu", torch.bfloat16):
        y = ops.relative_attention(q, k, v, rel)
    assert torch.equal(y, ops.relative_attention(q, k, v, rel))


def test_meta_tensors_give_the_shape():
    q, k, v, rel = (t.to("meta") if isinstance(t, Tensor) else [r.to("meta") for r in t] for t in inputs((3, 4)))
    assert ops.relative_attention(q, k, v, rel).shape == v.shape


def change(**replaced):
    q, k, v, rel = inputs((3, 4))
    return {"q": q, "k": k, "v": v, "rel": rel, **replaced}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (change(impl="eagre"), "unknown impl 'eagre'; nearest: 'eager'"),
        (change(q=[1.0]), "q must be a tensor, got list"),
        (change(q=torch.ones(2, 2, 3, 4, 3, dtype=torch.int64)), r"q must be floating point, got torch\.int64"),
        (change(q=torch.ones(2, 3, 4)), r"map of 1, 2 or 3 axes, got \(2, 3, 4\)"),
        (
            change(k=torch.ones(2, 2, 4, 3, 3, dtype=torch.float64)),
            r"with tables k must have the shape of q, got k \(2, 2, 4, 3, 3\)",
        ),
        (change(v=torch.ones(2, 2, 4, 3, 2, dtype=torch.float64)), "v must have the shape of k but for the last axis"),
        (change(v=torch.ones(2, 2, 3, 4, 2)), r"must share a dtype, got q torch\.float64 and v torch\.float32"),
        (
            change(v=torch.ones(2, 2, 3, 4, 2, dtype=torch.float64, device="meta")),
            "on one device, got q cpu and v meta",
        ),
        (change(rel=[3, None]), "table 0 of rel must be a tensor or None, got int"),
        (change(q=torch.ones(2, 2, 3, 4, 0), k=torch.ones(2, 2, 3, 4, 0)), "at least one channel"),
        (change(rel=torch.ones(5, 3)), "one table for each of the 2 map axes, got a tensor"),
        (change(rel=(torch.ones(5, 3),)), "one table for each of the 2 map axes, got 1"),
        (change(rel=(torch.ones(4, 3, dtype=torch.float64), None)), r"table 0 of rel must be \(2\*R - 1, 3\)"),
        (change(rel=(torch.ones(5, 3), None)), r"rel must have the dtype of q, got torch\.float32"),
        (
            change(rel=(None, torch.ones(5, 3, dtype=torch.float64))),
            "table 1 of rel has 5 rows and covers a length of 3, but map axis 1 has 4",
        ),
        (change(rel=(None, torch.ones(7, 3, dtype=torch.float64, device="meta"))), "rel must be on the device of q"),
    ],
)
def test_bad_input_gets_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        ops.relative_attention(**arguments)


@pytest.mark.parametrize("wrong", [None, np.zeros((2, 2, 3, 4, 3)), torch.zeros(2, 2, 3, 4, 3).to(torch.float8_e4m3fn)])
@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_what_is_no_floating_point_tensor_gets_a_sentence(name, wrong):
    got = wrong.dtype if isinstance(wrong, Tensor) else type(wrong).__name__
    with pytest.raises(TypeError, match=f"{name} must be .*, got {got}"):
        ops.relative_attention(**change(**{name: wrong}))


@pytest.mark.parametrize("impl", ["eager", "blocked", "sdpa"])
def test_a_scale_that_is_trained_gets_its_gradient(impl):
    q, k, v, rel = inputs((3, 4))
    scale = torch.nn.Parameter(torch.tensor([0.4], dtype=torch.float64))
    y = ops.relative_attention(q, k, v, rel, scale=scale, impl=impl)
    torch.testing.assert_close(y, ops.relative_attention(q, k, v, rel, scale=0.4, impl=impl))
    assert torch.autograd.gradcheck(lambda s: ops.relative_attention(q, k, v, rel, scale=s, impl=impl), scale)
    weights = ops.attention_weights(q, k, rel, query=(1, 2), scale=scale)
    assert torch.autograd.grad(weights.square().sum(), scale)[0].abs() > 1e-3
    constant = ops.relative_attention(q, k, v, rel, scale=torch.tensor(0.4, dtype=torch.float64), impl=impl)
    assert torch.equal(constant, ops.relative_attention(q, k, v, rel, scale=0.4, impl=impl))


@pytest.mark.parametrize(
    ("scale", "message"),
    [(np.zeros((2, 3)), "scale must be a number, got ndarray"), ("big", "got str"), (torch.ones(2), "one element")],
)
def test_a_scale_that_is_no_number_gets_a_sentence(scale, message):
    with pytest.raises(ValueError, match=message):
        ops.relative_attention(**change(), scale=scale)
