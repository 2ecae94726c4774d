"""Ops, layers and a training run on a CUDA device, against the same on the CPU: `pytest -m gpu`."""

import pytest
import torch

from attnconv import AugmentedConv2d, SelfAttention, SimpleSelfAttention, ops

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-3}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("map_size", [(9,), (5, 7), (3, 2, 5)])
def test_relative_attention(dtype, map_size):
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, 3, *map_size, 16, dtype=torch.float64).movedim(1, 0)
    v = torch.randn(2, 3, *map_size, 4, dtype=torch.float64)
    rel = [torch.randn(2 * n + 1, 16, dtype=torch.float64) for n in map_size]
    inputs = [t.to(dtype) for t in (q, k, v, *rel)]
    y = ops.relative_attention(*(t.cuda() for t in inputs[:3]), [t.cuda() for t in inputs[3:]])
    exact = ops.relative_attention(*(t.double() for t in inputs[:3]), [t.double() for t in inputs[3:]])
    assert y.dtype == dtype
    torch.testing.assert_close(y.double().cpu(), exact, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("order", ops.ORDERS)
def test_bilinear_attention(order):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 8, 5, 7, dtype=torch.float64), torch.randn(8, 8, dtype=torch.float64)
    y = ops.bilinear_attention(x.cuda(), weight.cuda(), 0.5, order=order)
    torch.testing.assert_close(y.cpu(), ops.bilinear_attention(x, weight, 0.5, order=order))


@pytest.mark.parametrize(
    "build",
    [
        lambda: AugmentedConv2d(6, 10, 3, padding=1, key_channels=6, value_channels=4, num_heads=2, feat_size=9),
        lambda: SelfAttention(6),
        lambda: SimpleSelfAttention(6, symmetric=True),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_layers_under_autocast(build, dtype):
    torch.manual_seed(0)
    layer, x = build().eval(), torch.randn(2, 6, 7, 5)
    for name, parameter in layer.named_parameters():
        if name == "gamma":
            torch.nn.init.constant_(parameter, 0.5)
    expected = layer(x)
    layer.cuda()
    with torch.autocast("cuda", dtype):
        y = layer(x.cuda())
        y.float().square().mean().backward()
    torch.testing.assert_close(y.float().cpu(), expected, rtol=0.05, atol=0.05)
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run(precision, tmp_path):
    for package in ("lightning_fabric", "sklearn", "torchvision", "yaml"):  # `make gpu` may have none of them
        pytest.importorskip(package)
    from attnconv.recipes import run
    from attnconv.train.config import RunConfig

    result = run(RunConfig(epochs=4, lr=0.05, device="cuda", precision=precision), tmp_path / "run", progress=False)
    assert result["best_top1"] > 80
