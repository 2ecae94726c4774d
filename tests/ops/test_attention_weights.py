"""ops.attention_weights: one softmax row, the same that relative_attention applies to v."""

import itertools

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
def test_a_query_beside_the_map_is_refused(query):
    q = torch.zeros(1, 1, 3, 4, 2)
    with pytest.raises(ValueError, match=r"query must be a cell of the map \(3, 4\), got"):
        ops.attention_weights(q, q, None, query=query)
