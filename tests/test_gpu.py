"""Ops, layers and a training run on a CUDA device, against the same on the CPU: `pytest -m gpu`."""

import pytest
import torch

from attnconv import AugmentedConv2d, SelfAttention, SimpleSelfAttention, ops
from attnconv.kernels.relative_attention import eager
from attnconv.kernels.relative_attention import triton as kernel

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


# The kernel "triton", called by its launchers.

# Of errors, in units of the largest number of a tensor.
KERNEL_BOUND = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def kernel_inputs(map_size, d, e, dtype, *, tables=True, batch=2, heads=3):
    """q, k, v as a convolution in channels_last makes them, the tables, and the gradient of the output."""
    generator = torch.Generator("cuda").manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, device="cuda").to(dtype)

    qkv = draw(batch, *map_size, heads * (2 * d + e)).split([heads * d, heads * d, heads * e], dim=-1)
    q, k, v = (t.unflatten(-1, (heads, -1)).movedim(-2, 1) for t in qkv)
    rel = [draw(2 * n + 3, d)[2:-2] for n in map_size] if tables else []
    return q, k, v, rel, draw(batch, heads, *map_size, e)


def run_kernel(q, k, v, rel, grad, scale, mask=None, **options):
    """Output and gradients of q, k, v and the tables."""
    reason = kernel.why_not(head_dim=q.shape[-1], value_dim=v.shape[-1], dtype=q.dtype, device_type="cuda")
    if reason is not None:
        pytest.skip(reason)
    out, lse = kernel.forward(q, k, v, rel, mask, scale)
    *grads, grad_rel = kernel.backward(grad, q, k, v, rel, mask, out, lse, scale, **options)
    return [out, *grads, *grad_rel]


def run_eager(q, k, v, rel, grad, scale, mask=None, dtype=torch.float64):
    leaves = [t.to(dtype).requires_grad_() for t in (q, k, v, *rel)]
    out = eager.forward(*leaves[:3], leaves[3:], mask, scale)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad.to(dtype))]


def errors(found, expected):
    assert [f.shape for f in found] == [x.shape for x in expected]
    return [((f.double() - x).abs().max() / x.abs().max()).item() for f, x in zip(found, expected, strict=True)]


@pytest.mark.parametrize("dtype", KERNEL_BOUND, ids=str)
@pytest.mark.parametrize(
    ("map_size", "d", "e", "tables"),
    [
        ((9,), 16, 4, True),
        ((300,), 64, 64, True),
        ((5, 7), 20, 2, True),
        ((5, 7), 20, 2, False),
        ((7, 7), 64, 64, True),
        ((14, 14), 40, 64, True),
        ((31, 33), 20, 2, True),
        ((40, 23), 64, 20, False),
        ((2, 3), 128, 130, True),
        ((56, 56), 64, 64, True),
        ((12, 13), 32, 512, True),
        ((3, 5, 20), 20, 2, True),
        ((8, 9, 10), 32, 32, True),
        ((2, 3, 5), 16, 3, False),
    ],
)
def test_kernel(map_size, d, e, tables, dtype):
    given = kernel_inputs(map_size, d, e, dtype, tables=tables)
    found = run_kernel(*given, d**-0.5)
    assert all(f.dtype == dtype for f in found)
    assert max(errors(found, run_eager(*given, d**-0.5))) <= KERNEL_BOUND[dtype]


def mask_of(k):
    """About half of the keys; of the first image the last one alone, so that whole tiles are masked."""
    mask = torch.rand(k.shape[0], *k.shape[2:-1], device="cuda", generator=torch.Generator("cuda").manual_seed(1)) > 0.5
    mask[0] = False
    mask.flatten(1)[:, -1] = True
    return mask


@pytest.mark.parametrize("dtype", KERNEL_BOUND, ids=str)
@pytest.mark.parametrize("tables", [True, False])
@pytest.mark.parametrize("map_size", [(70,), (14, 14), (31, 33), (5, 9, 10)])
def test_kernel_with_a_mask(map_size, tables, dtype):
    given = kernel_inputs(map_size, 20, 6, dtype, tables=tables)
    mask = mask_of(given[1])
    found = run_kernel(*given, 0.2, mask)
    assert max(errors(found, run_eager(*given, 0.2, mask))) <= KERNEL_BOUND[dtype]


@pytest.mark.parametrize("dtype", KERNEL_BOUND, ids=str)
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("key_map", [(7, 9), (300,), (3, 5, 20)])
def test_kernel_with_keys_of_another_map(key_map, masked, dtype):
    q, _, _, _, grad = kernel_inputs((14, 17), 32, 16, dtype, tables=False)
    _, k, v, _, _ = kernel_inputs(key_map, 32, 16, dtype, tables=False)
    mask = mask_of(k) if masked else None
    found = run_kernel(q, k, v, [], grad, 0.2, mask)
    assert max(errors(found, run_eager(q, k, v, [], grad, 0.2, mask))) <= KERNEL_BOUND[dtype]


@pytest.mark.parametrize("impl", ["triton", "sdpa", "blocked"])
@pytest.mark.parametrize("tables", [True, False])
def test_masks_in_every_kernel_and_an_image_without_valid_keys(impl, tables):
    q, k, v, rel, grad = kernel_inputs((9, 11), 20, 6, torch.float32, tables=tables)
    mask = mask_of(k)
    mask[0] = False
    leaves = [t.detach().clone().requires_grad_() for t in (q, k, v, *rel)]
    y = ops.relative_attention(*leaves[:3], leaves[3:] or None, mask=mask, scale=0.2, impl=impl)
    found = [y.detach(), *torch.autograd.grad(y, leaves, grad)]
    assert not any(t[0].any() for t in found[:4])
    alone = [t[1:] for t in (q, k, v)]
    expected = run_eager(*alone, rel, grad[1:], 0.2, mask[1:])
    parts = [t[1:] for t in found[:4]] + found[4:]
    assert max(errors(parts, expected)) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_kernel_with_wide_heads(dtype):
    given = kernel_inputs((10, 11), 256, 64, dtype)
    assert max(errors(run_kernel(*given, 0.05), run_eager(*given, 0.05))) <= KERNEL_BOUND[dtype]


@pytest.mark.parametrize("dtype", KERNEL_BOUND, ids=str)
def test_kernel_on_a_large_map(dtype):
    given = kernel_inputs((96, 100), 32, 32, dtype, batch=1, heads=1)
    assert max(errors(run_kernel(*given, 0.2), run_eager(*given, 0.2))) <= KERNEL_BOUND[dtype]


def test_kernel_in_float32_is_as_exact_as_the_eager_form():
    given = kernel_inputs((17, 19), 64, 40, torch.float32)
    exact = run_eager(*given, 0.125)
    found = errors(run_kernel(*given, 0.125), exact)
    plain = errors(run_eager(*given, 0.125, dtype=torch.float32), exact)
    assert all(f <= 2 * p + 1e-6 for f, p in zip(found, plain, strict=True)), (found, plain)


def test_kernel_takes_tf32_where_torch_does(monkeypatch):
    given = kernel_inputs((17, 19), 64, 40, torch.float32)
    exact = run_eager(*given, 0.125)
    monkeypatch.setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32")
    assert KERNEL_BOUND[torch.float32] < max(errors(run_kernel(*given, 0.125), exact)) < 1e-2


@pytest.mark.parametrize("dtype", KERNEL_BOUND, ids=str)
@pytest.mark.parametrize("scale", [-0.3, 0.0])
def test_kernel_scale(scale, dtype):
    given = kernel_inputs((5, 7), 16, 4, dtype)
    found, expected = run_kernel(*given, scale), run_eager(*given, scale)
    for f, x in zip(found, expected, strict=True):
        assert (f.double() - x).abs().max() <= KERNEL_BOUND[dtype] * max(1.0, x.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_kernel_reads_any_strides(dtype):
    q, k, v, rel, grad = kernel_inputs((9, 11), 20, 6, dtype)
    first = run_kernel(q, k, v, rel, grad, 0.2)
    q, k = (t.movedim(-1, 2).contiguous().movedim(2, -1) for t in (q, k))  # (B, N, D, *map) in memory
    second = run_kernel(q, k, v.contiguous(), rel, grad.movedim(1, -2).contiguous().movedim(-2, 1), 0.2)
    assert max(errors(second, [t.double() for t in first])) <= KERNEL_BOUND[dtype]


@pytest.mark.parametrize("dtype", KERNEL_BOUND, ids=str)
@pytest.mark.parametrize("map_size", [(200,), (33, 40), (5, 9, 10)])
def test_kernel_gives_the_same_bits_again(map_size, dtype):
    given = kernel_inputs(map_size, 32, 32, dtype)
    first = run_kernel(*given, 0.2)
    for _ in range(5):
        assert all(map(torch.equal, run_kernel(*given, 0.2), first))


@pytest.mark.parametrize("splits", [1, 3, 8])
def test_kernel_splits(splits):
    given = kernel_inputs((20, 21), 32, 32, torch.float32)
    found = run_kernel(*given, 0.2, splits=splits)
    assert max(errors(found, run_eager(*given, 0.2))) <= KERNEL_BOUND[torch.float32]


def test_kernel_memory_is_linear_in_the_positions():
    peaks = []
    for n in (32, 64, 128):
        given = kernel_inputs((n, n), 32, 32, torch.bfloat16, batch=1, heads=8)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run_kernel(*given, 0.2, splits=2)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 5 * peaks[0]  # four times the positions
    assert peaks[2] < 5 * peaks[1]


def test_kernel_on_tensors_of_more_than_2_to_the_31_numbers():
    if torch.cuda.get_device_properties().total_memory < 100e9:
        pytest.skip("needs a GPU of 100 GB")
    batch, heads, d = 8300, 64, 64
    q = torch.randn(batch, heads, 8, 8, d, device="cuda", dtype=torch.bfloat16)
    v, grad = torch.randn(2, batch, heads, 8, 8, 2, device="cuda", dtype=torch.bfloat16)
    assert q.numel() > 2**31
    rel = [torch.randn(15, d, device="cuda", dtype=torch.bfloat16) for _ in range(2)]
    found = run_kernel(q, q, v, rel, grad, 0.125)[:4]
    alone = run_kernel(q[-1:], q[-1:], v[-1:], rel, grad[-1:], 0.125)[:4]
    assert max(errors([f[-1:] for f in found], [a.double() for a in alone])) <= KERNEL_BOUND[torch.bfloat16]
