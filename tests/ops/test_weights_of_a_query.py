"""ops.attention_weights, one softmax row, and ops.bilinear_weights, one column of S: the same that the ops apply."""

import itertools

import numpy as np
import oracles
import pytest
import torch

from attnconv import ops


@pytest.mark.parametrize("map_size", [(5,), (3, 4), (2, 3, 2)])
@pytest.mark.parametrize("tables", [True, False])
@pytest.mark.parametrize("scale", [None, 1.0])
def test_the_rows_applied_to_v_give_the_output(map_size, tables, scale):
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, 3, *map_size, 5, dtype=torch.float64).movedim(1, 0)
    v = torch.randn(2, 3, *map_size, 4, dtype=torch.float64)
    rel = [torch.randn(2 * n + 3, 5, dtype=torch.float64) for n in map_size] if tables else None
    rows = [ops.attention_weights(q, k, rel, query=i, scale=scale) for i in itertools.product(*map(range, map_size))]
    weights = torch.stack(rows, dim=2).flatten(3)  # (B, N, L, L)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    expected = ops.relative_attention(q, k, v, rel, scale=scale)
    torch.testing.assert_close((weights @ v.flatten(2, -2)).reshape(expected.shape), expected)


@pytest.mark.parametrize("key_map", [(3, 4), (5,), (2, 3, 2)])
def test_rows_of_masked_keys_and_of_keys_with_a_map_of_their_own(key_map):
    torch.manual_seed(0)
    q = torch.randn(3, 2, 3, 4, 5, dtype=torch.float64)
    k, v = torch.randn(2, 3, 2, *key_map, 5, dtype=torch.float64)
    mask = torch.rand(3, *key_map) > 0.5
    mask[:2] = False
    mask.flatten(1)[0, 0] = True  # the first image has one key, the second none
    rel = [torch.randn(2 * n - 1, 5, dtype=torch.float64) for n in key_map] if key_map == (3, 4) else None
    rows = [ops.attention_weights(q, k, rel, query=i, mask=mask) for i in itertools.product(range(3), range(4))]
    assert all(row.shape == (3, 2, *key_map) for row in rows)
    weights = torch.stack(rows, dim=2).flatten(3)  # (B, N, L, J)
    assert not weights[~mask.flatten(1)[:, None, None].expand(weights.shape)].any()
    totals = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(weights.sum(-1), totals.expand(3, 2, 12))
    expected = ops.relative_attention(q, k, v, rel, mask=mask)
    torch.testing.assert_close((weights @ v.flatten(2, -2)).reshape(expected.shape), expected)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(1, 4, 3, dtype=torch.bool), r"mask must be \(batch, \*key map\), \(1, 3, 4\); got \(1, 4, 3\)"),
        (torch.ones(1, 3, 4), r"mask must be a bool tensor, .* got torch\.float32"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_by_attention_weights(mask, message):
    q = torch.zeros(1, 1, 3, 4, 2)
    with pytest.raises(ValueError, match=message):
        ops.attention_weights(q, q, None, query=(0, 0), mask=mask)


@pytest.mark.parametrize("query", [(3, 0), (0, -1), (0,)])
def test_a_query_beside_the_map_is_refused_by_attention_weights(query):
    q = torch.zeros(1, 1, 3, 4, 2)
    with pytest.raises(ValueError, match=r"query must be a cell of the map \(3, 4\), got"):
        ops.attention_weights(q, q, None, query=query)


@pytest.mark.parametrize("map_size", [(7,), (3, 4), (2, 3, 2)])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("axes", [2, 3])
def test_the_columns_applied_to_x_give_the_output(map_size, normalize, axes):
    torch.manual_seed(0)
    x = torch.randn(2, 5, *map_size, dtype=torch.float64)
    weight = torch.randn(5, 5, *(1,) * (axes - 2), dtype=torch.float64)
    cells = itertools.product(*map(range, map_size))
    columns = [ops.bilinear_weights(x, weight, query=cell, normalize=normalize).flatten(1) for cell in cells]
    s = torch.stack(columns, dim=2)  # (B, L, L)
    expected = oracles.bilinear_attention(x, weight, 0.7, normalize=normalize)
    np.testing.assert_allclose((0.7 * x.flatten(2) @ s + x.flatten(2)).reshape(x.shape), expected, rtol=1e-10)


def test_a_symmetric_weight_gives_rows_that_are_columns():
    torch.manual_seed(0)
    x, weight = torch.randn(1, 4, 2, 3, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    columns = [ops.bilinear_weights(x, weight + weight.mT, query=(i // 3, i % 3)).flatten() for i in range(6)]
    s = torch.stack(columns)
    torch.testing.assert_close(s, s.mT)
    assert (s < 0).any()


def test_half_precision_is_summed_in_single():
    x = torch.full((1, 300, 1, 2), 30.0, dtype=torch.float16)  # 300 * 900 is above the largest float16 number
    weights = ops.bilinear_weights(x, torch.eye(300, dtype=torch.float16), query=(0, 1))
    assert weights.dtype == torch.float32
    assert weights.tolist() == [[[270000.0, 270000.0]]]


@pytest.mark.parametrize("query", [(3, 0), (0, -1), (0,)])
def test_a_query_beside_the_map_is_refused_by_bilinear_weights(query):
    with pytest.raises(ValueError, match=r"query must be a cell of the map \(3, 4\), got"):
        ops.bilinear_weights(torch.zeros(1, 2, 3, 4), torch.zeros(2, 2), query=query)


@pytest.mark.parametrize("shape", [(3, 2), (2, 2, 2), (2, 2, 0), (2, 2, 1, 1)])
def test_a_weight_that_does_not_fit_is_refused(shape):
    with pytest.raises(ValueError, match=r"weight must be \(2, 2\) or \(2, 2, odd\), got"):
        ops.bilinear_weights(torch.zeros(1, 2, 3, 4), torch.zeros(shape), query=(0, 0))
