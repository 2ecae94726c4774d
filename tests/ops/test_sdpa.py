"""impl="sdpa": the fold into torch's fused attention."""

import oracles
import pytest
import torch
from torch.export import Dim
from torch.nn import functional as F

from attnconv import AugmentedConv2d, SelfAttention, ops


def inputs(map_size, *, d=3, e=2, dtype=torch.float64, tables=True):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, *map_size, n, generator=generator, dtype=torch.float64) for n in (d, d, e))
    rel = [torch.randn(2 * n + 1, d, generator=generator, dtype=torch.float64).to(dtype) for n in map_size]
    return q.to(dtype), k.to(dtype), v.to(dtype), rel if tables else None


def gradients(impl, q, k, v, rel):
    arguments = [t.clone().requires_grad_() for t in (q, k, v, *(rel or ()))]
    y = ops.relative_attention(*arguments[:3], arguments[3:] or None, scale=0.4, impl=impl)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape)
    return torch.autograd.grad((y * weights).sum(), arguments)


@pytest.mark.parametrize("map_size", [(5,), (3, 5), (5, 3), (1, 4), (7, 1), (2, 3, 4)])
@pytest.mark.parametrize("tables", [True, False])
@pytest.mark.parametrize("e", [2, 19], ids=["values narrower than the fold", "values wider than the fold"])
def test_matches_the_loops_and_the_gradients_of_the_eager_form(map_size, tables, e):
    given = inputs(map_size, e=e, tables=tables)
    y = ops.relative_attention(*given, scale=0.4, impl="sdpa")
    torch.testing.assert_close(y, torch.from_numpy(oracles.relative_attention(*given, scale=0.4)))
    torch.testing.assert_close(gradients("sdpa", *given), gradients("eager", *given))


def test_it_runs_fused_on_a_cpu(monkeypatch):
    seen = []
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *t, **o: seen.append(t) or fused(*t, **o))
    ops.relative_attention(*inputs((5, 7), d=8, e=2, dtype=torch.float32), impl="sdpa")
    (folded,) = seen
    assert [t.shape[-1] for t in folded] == [8 + 5 + 7] * 3
    assert torch._fused_sdp_choice(*folded) == torch.nn.attention.SDPBackend.FLASH_ATTENTION.value


def test_the_second_derivative_is_not_there_on_a_cpu():
    q, k, v, rel = inputs((2, 3), dtype=torch.float32)
    y = ops.relative_attention(q.requires_grad_(), k, v, rel, impl="sdpa")
    (first,) = torch.autograd.grad(y.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match=r"derivative for .*flash.* is not implemented"):
        first.sum().backward()


def layer(impl):
    torch.manual_seed(0)
    return AugmentedConv2d(4, 10, 3, padding=1, key_channels=6, value_channels=4, num_heads=2, feat_size=9, impl=impl)


def calls(program):
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("build", [lambda: layer("sdpa"), lambda: layer("auto"), lambda: SelfAttention(4)])
def test_exports_as_one_fused_call_with_dynamic_batch_and_map(build):
    net = build().eval()
    sizes = {0: Dim("batch", min=1, max=16), 2: Dim("rows", min=2, max=9), 3: Dim("columns", min=2, max=9)}
    program = torch.export.export(net, (torch.randn(2, 4, 5, 6),), dynamic_shapes=(sizes,))
    assert sum("scaled_dot_product_attention" in name for name in calls(program)) == 1
    for shape in ((1, 4, 9, 2), (5, 4, 3, 7)):
        x = torch.randn(shape)
        torch.testing.assert_close(program.module()(x), net(x), rtol=1e-4, atol=1e-5)


def test_compiles_in_one_graph():
    torch.compiler.reset()
    x, net = torch.randn(2, 4, 7, 5), layer("sdpa")
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), net(x), rtol=1e-4, atol=1e-5)
