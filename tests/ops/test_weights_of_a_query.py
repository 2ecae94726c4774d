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
