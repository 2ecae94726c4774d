"""The kernel "triton" on the CPU, in Triton's interpreter: `TRITON_INTERPRET=1 pytest tests/ops/triton_interpreted.py`.

The variable has to be set before torch is imported, so test_triton.py runs this file in a process of its own.
"""

import itertools
import math
import os

import oracles
import pytest
import torch

from attnconv.kernels.relative_attention import triton as kernel
from attnconv.kernels.relative_attention.triton import Blocks

assert os.environ.get("TRITON_INTERPRET") == "1"

BOUND = 4e-6  # of errors, in units of the largest number of a tensor: some roundings of float32


def inputs(map_size, *, d=5, e=3, batch=2, heads=2, tables=True, key_map=None):
    """q, k, v, tables, and the gradient of the output."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    key_map = key_map or map_size
    sizes = ((map_size, d), (key_map, d), (key_map, e), (map_size, e))
    q, k, v, grad = (draw(batch, heads, *size, width) for size, width in sizes)
    return q, k, v, [draw(2 * n - 1, d) for n in map_size] if tables else [], grad


def mask_of(k):
    """About half of the keys; of the first image the last one alone, so that whole tiles are masked."""
    mask = torch.rand(k.shape[0], *k.shape[2:-1], generator=torch.Generator().manual_seed(1)) > 0.5
    mask[0] = False
    mask.flatten(1)[:, -1] = True
    return mask


def exact(q, k, v, rel, scale, mask=None):
    """Output and log-sum-exp in float64, from the keys of every pair of positions."""
    map_size = q.shape[2:-1]
    places = torch.tensor(list(itertools.product(*map(range, map_size))))  # (L, axes)
    keys = k.flatten(2, -2).unsqueeze(2)  # (B, N, 1, L, D)
    for axis, (n, table) in enumerate(zip(map_size, rel, strict=True) if rel else ()):
        keys = keys + table[places[None, :, axis] - places[:, None, axis] + n - 1]  # (B, N, L, L, D)
    logits = scale * (q.flatten(2, -2).unsqueeze(3) * keys).sum(-1)
    if mask is not None:
        logits = torch.where(mask.flatten(1)[:, None, None], logits, -math.inf)
    out = logits.softmax(-1) @ v.flatten(2, -2)
    return out.unflatten(2, map_size), logits.logsumexp(-1).unflatten(2, map_size)


def close(found, expected, bound=BOUND):
    assert found.shape == expected.shape
    error = (found.double() - expected).abs().max()
    assert error <= bound * max(1.0, expected.abs().max().item())  # a nan fails as well


def check(given, scale, mask=None, **options):
    """Output, log-sum-exp and every gradient against float64."""
    q, k, v, rel, grad = given
    doubles = [t.double().requires_grad_() for t in (q, k, v, *rel)]
    expected, expected_lse = exact(*doubles[:3], doubles[3:], scale, mask)
    expected_grads = torch.autograd.grad(expected, doubles, grad.double())
    bound = BOUND * max(1.0, expected_lse.abs().max().item() / 10)  # the rounding of a logit grows with it

    out, lse = kernel.forward(q, k, v, rel, mask, scale, blocks=options.get("blocks"))
    close(out, expected, bound)
    close(lse, expected_lse)
    assert lse.dtype == torch.float32
    assert lse.is_contiguous()
    grad_q, grad_k, grad_v, grad_rel = kernel.backward(grad, q, k, v, rel, mask, out, lse, scale, **options)
    for found, of, value in zip((grad_q, grad_k, grad_v, *grad_rel), (q, k, v, *rel), expected_grads, strict=True):
        close(found, value, bound)
        assert (found.dtype, found.stride()) == (of.dtype, torch.empty_like(of).stride())


MAPS = [(5,), (37,), (1,), (3, 5), (5, 3), (1, 4), (7, 1), (9, 17), (2, 3, 4), (3, 1, 2)]


@pytest.mark.parametrize("map_size", MAPS)
@pytest.mark.parametrize("tables", [True, False])
def test_default_tiles(map_size, tables):
    check(inputs(map_size, tables=tables), 0.4)


@pytest.mark.parametrize("map_size", [(3, 5), (2, 3, 4)])
@pytest.mark.parametrize("tables", [True, False])
def test_against_the_loops(map_size, tables):
    q, k, v, rel, _ = inputs(map_size, tables=tables)
    expected = oracles.relative_attention(q, k, v, rel or None)
    close(kernel.forward(q, k, v, rel, None, 5**-0.5)[0], torch.from_numpy(expected))


def test_columns_beyond_one_tile():
    check(inputs((2, 70), batch=1), 0.4)


TILES = [  # rows, columns, lines, key columns, channels
    ((5, 19), Blocks(4, 4, 1, 16, 16)),
    ((5, 19), Blocks(1, 16, 2, 16, 16)),
    ((18, 5), Blocks(8, 2, 4, 8, 16)),
    ((19, 5), Blocks(4, 8, 2, 8, 16)),
    ((33, 3), Blocks(16, 4, 16, 4, 16)),
    ((40,), Blocks(1, 16, 1, 16, 16)),
    ((2, 9, 7), Blocks(2, 8, 4, 8, 16)),
    ((2, 17, 3), Blocks(8, 4, 1, 16, 16)),
]


@pytest.mark.parametrize(("map_size", "blocks"), TILES)
def test_small_tiles(map_size, blocks):
    check(inputs(map_size, batch=1), 0.4, blocks=blocks, splits=3)


@pytest.mark.parametrize("tables", [True, False])
def test_more_splits_than_tiles_and_splits_of_unequal_size(tables):
    check(inputs((5, 18), batch=1, tables=tables), 0.4, blocks=Blocks(1, 16, 1, 16, 16), splits=8)


@pytest.mark.parametrize(("d", "e"), [(20, 2), (33, 1), (16, 16), (1, 17), (5, 40)])
def test_channels(d, e):
    check(inputs((3, 5), d=d, e=e), d**-0.5)


@pytest.mark.parametrize("e", [33, 48])
def test_values_in_parts(e):
    check(inputs((3, 9), e=e, batch=1), 0.4, blocks=Blocks(2, 8, 1, 16, 16), splits=2)


MASKED_TILES = [((5,), None), ((3, 5), None), ((2, 3, 4), None), ((5, 19), Blocks(1, 16, 2, 16, 16))]


@pytest.mark.parametrize(("map_size", "blocks"), MASKED_TILES)
@pytest.mark.parametrize("tables", [True, False])
def test_masks(map_size, blocks, tables):
    given = inputs(map_size, tables=tables)
    check(given, 0.4, mask_of(given[1]), blocks=blocks)


OWN = [((3, 5), (2, 4)), ((3, 5), (37,)), ((5,), (3, 7)), ((2, 3, 2), (1, 1)), ((9,), (2, 9, 5)), ((2, 3), (3, 2, 5))]


@pytest.mark.parametrize(("map_size", "key_map"), OWN)
@pytest.mark.parametrize("masked", [True, False])
def test_key_maps_of_their_own(map_size, key_map, masked):
    given = inputs(map_size, tables=False, key_map=key_map)
    check(given, 0.4, mask_of(given[1]) if masked else None)


@pytest.mark.parametrize("blocks", [Blocks(2, 8, 1, 16, 16), Blocks(4, 4, 4, 8, 16)])
def test_tiles_of_key_maps_of_their_own(blocks):
    given = inputs((5, 6), tables=False, key_map=(7, 19), batch=1)
    check(given, 0.4, mask_of(given[1]), blocks=blocks, splits=3)


def test_any_layout_of_a_mask_and_one_that_is_all_true():
    given = inputs((3, 5))
    mask = mask_of(given[1])
    check(given, 0.4, mask.mT.contiguous().mT)
    plain, everything = (kernel.forward(*given[:4], m, 0.4) for m in (None, torch.ones_like(mask)))
    assert all(map(torch.equal, plain, everything))


@pytest.mark.parametrize("scale", [-0.7, 0.0, 1, 30.0])
def test_scale(scale):
    check(inputs((3, 5), d=3), scale)


def test_channels_last_and_other_strides():
    q, k, v, rel, grad = inputs((3, 5))
    q = q.movedim(1, -2).contiguous().movedim(-2, 1)  # (B, *map, N, D) in memory
    k = k.movedim(-1, 2).contiguous().movedim(2, -1)  # (B, N, D, *map)
    v = v.repeat_interleave(2, dim=-1)[..., ::2]
    rel = [torch.cat([t[:2], t, t[:2]])[2:-2] for t in rel]
    rel[1] = rel[1].mT.contiguous().mT
    check((q, k, v, rel, grad[:1].expand_as(grad)), 0.4)


def test_the_output_merges_into_channels_last_without_a_copy():
    q, k, v, rel, _ = inputs((3, 5))
    out, _ = kernel.forward(q, k, v, rel, None, 0.4)
    merged = out.movedim(-1, 2).flatten(1, 2)
    assert merged.is_contiguous(memory_format=torch.channels_last)
    assert merged.data_ptr() == out.data_ptr()


def test_large_logits_do_not_overflow():
    q, k, v, rel, grad = inputs((3, 5))
    check((40 * q, 40 * k, v, rel, grad), 1.0)


@pytest.mark.parametrize("empty", ["batch", "heads"])
def test_an_empty_batch(empty):
    q, k, v, rel, grad = inputs((3, 5), **{empty: 0})
    out, lse = kernel.forward(q, k, v, rel, None, 0.4)
    grad_q, grad_k, grad_v, grad_rel = kernel.backward(grad, q, k, v, rel, None, out, lse, 0.4)
    assert (out.shape, lse.shape) == (v.shape, v.shape[:-1])
    assert (grad_q.shape, grad_k.shape, grad_v.shape) == (q.shape, k.shape, v.shape)
    assert all(not g.any() and g.shape == t.shape for g, t in zip(grad_rel, rel, strict=True))


def test_no_values():
    given = inputs((3, 5), e=0)
    _, expected = exact(*(t.double() for t in given[:3]), [t.double() for t in given[3]], 0.4)
    out, lse = kernel.forward(*given[:4], None, 0.4)
    close(lse, expected)
    assert out.shape == given[2].shape


def test_it_says_that_it_can():
    assert kernel.why_not(head_dim=20, dtype=torch.float32, device_type="cpu") is None
