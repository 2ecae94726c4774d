"""impl="auto": which kernel runs, and the reasons that are given."""

import sys
from dataclasses import replace

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import grad, jvp

from attnconv import checks, ops
from attnconv.kernels.relative_attention import native as native_kernel
from attnconv.kernels.relative_attention import triton as triton_kernel
from attnconv.ops import AttentionProblem, explain_choice, kernel_choice, relative_attention

LARGE = AttentionProblem((32, 32), 20, 2)
SMALL = AttentionProblem((5, 5), 20, 2)
CUDA = replace(LARGE, device_type="cuda")


@pytest.fixture
def gpu(monkeypatch):
    """As if Triton could run: there is no GPU where these tests run."""
    monkeypatch.setattr(triton_kernel, "why_not", lambda **_: None)


@pytest.fixture
def compiled(monkeypatch):
    """As if the library of the kernel in C++ were there."""
    monkeypatch.setattr(native_kernel, "MISSING", None)


@pytest.fixture
def not_compiled(monkeypatch):
    """As on a machine without a compiler."""
    monkeypatch.setattr(native_kernel, "MISSING", "its library was not built")


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (LARGE, "native"),
        (SMALL, "native"),
        (replace(SMALL, dtype=torch.bfloat16, needs_grad=False), "native"),
        (replace(LARGE, dtype=torch.float64), "blocked"),
        (replace(SMALL, dtype=torch.float64), "eager"),
        (replace(LARGE, transformed=True), "eager"),
        (replace(LARGE, export="torch"), "sdpa"),
        (replace(LARGE, device_type="meta"), "eager"),
        (replace(LARGE, device_type="mps"), "blocked"),
    ],
)
def test_the_compiled_kernel_goes_first_on_a_cpu(problem, expected):
    assert explain_choice(problem)[0] == expected


@pytest.mark.usefixtures("not_compiled")
@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (LARGE, "blocked"),
        (SMALL, "eager"),
        (AttentionProblem((14, 14), 20, 3), "blocked"),
        (AttentionProblem((28, 28), 40, 16), "blocked"),
        (AttentionProblem((7, 7), 20, 8), "eager"),
        (AttentionProblem((7, 7), 20, 8, needs_grad=False), "blocked"),
        (AttentionProblem((49,), 20, 8), "eager"),  # as (7, 7): the number of positions counts
        (AttentionProblem((9, 9), 20, 8), "blocked"),
        (AttentionProblem((9, 9), 64, 64), "eager"),  # wide heads: products dominate, which eager does in one go
        (replace(LARGE, transformed=True), "eager"),
        (replace(LARGE, export="torch"), "sdpa"),
        (replace(SMALL, export="torch"), "sdpa"),
        (replace(LARGE, export="onnx"), "eager"),
        (AttentionProblem((65, 64), 20, 2, export="onnx"), "sdpa"),
        (replace(LARGE, export="trace"), "eager"),
        (AttentionProblem((65, 64), 20, 2, export="trace"), "sdpa"),
        (replace(LARGE, device_type="meta"), "eager"),
        (replace(LARGE, device_type="mps"), "blocked"),
    ],
)
def test_the_kernel_of_a_problem(problem, expected):
    assert explain_choice(problem)[0] == expected


@pytest.mark.usefixtures("not_compiled")
@pytest.mark.parametrize(
    ("map_size", "key_map", "expected"),
    [
        ((32, 32), (3, 3), "blocked"),
        ((9, 9), (4, 4), "eager"),  # 71 positions count, or 71 * 71 pairs of a query and a key
        ((12, 12), (5, 7), "eager"),
        ((12, 12), (6, 6), "blocked"),
    ],
)
def test_the_kernel_of_keys_with_a_map_of_their_own(map_size, key_map, expected):
    problem = AttentionProblem(map_size, 20, 2, tables=False, key_map=key_map)
    assert explain_choice(problem)[0] == expected


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_triton_runs_on_cuda(dtype):
    assert explain_choice(replace(CUDA, dtype=dtype))[0] == "triton"


def test_cuda_without_triton_takes_the_fold_and_then_blocks(monkeypatch):
    monkeypatch.setattr(triton_kernel, "why_not", lambda **_: "it is not there")
    assert explain_choice(CUDA)[0] == "sdpa"
    chosen, reasons = explain_choice(replace(CUDA, map_size=(128, 128)))
    assert chosen == "blocked"
    assert reasons["sdpa"] == "a folded head of 276 channels (D + axes of the map, or E) is above 256 on CUDA"
    assert reasons["triton"] == "it is not there"


@pytest.mark.usefixtures("not_compiled")
def test_every_kernel_gets_one_clause():
    chosen, reasons = explain_choice(LARGE)
    assert tuple(reasons) == kernel_choice.KERNELS
    assert reasons[chosen] == "the fastest on maps of 71 positions or more, with linear memory"
    assert reasons["eager"] == f"could run; blocked goes first: {reasons[chosen]}"
    assert reasons["native"] == "its library was not built"
    assert reasons["triton"]
    assert "\n" not in "".join(reasons.values())


@pytest.mark.parametrize("change", [{"export": "torch"}, {"transformed": True}])
@pytest.mark.parametrize("impl", ["blocked", "native", "triton"])
def test_operators_of_their_own_say_what_stops_them(impl, change):
    assert "it is a custom operator" in (kernel_choice.why_not(impl, replace(LARGE, **change)) or "")


def test_an_unknown_kernel_is_named_with_its_nearest():
    with pytest.raises(checks.InputError, match="blocked"):
        kernel_choice.why_not("bloked", LARGE)


# What the op itself hands to the choice.


@pytest.fixture
def problems(monkeypatch):
    seen = []
    choose = kernel_choice.choose_kernel
    module = sys.modules[relative_attention.__module__]  # by its name one gets the function
    monkeypatch.setattr(module, "choose_kernel", lambda problem: seen.append(problem) or choose(problem))
    return seen


def draw(n, *, requires_grad=False):
    q, k, v = (torch.randn(2, 2, n, n, d, requires_grad=requires_grad) for d in (4, 4, 3))
    return q, k, v, [torch.randn(2 * n - 1, 4) for _ in range(2)]


def test_the_op_describes_its_inputs(problems):
    q, k, v, rel = draw(9)
    relative_attention(q, k, v, rel)
    relative_attention(q.bfloat16().requires_grad_(), k.bfloat16(), v.bfloat16(), None)
    with torch.no_grad():
        relative_attention(q.requires_grad_(), k, v, rel)
    first = AttentionProblem((9, 9), 4, 3, needs_grad=False)
    assert problems == [first, replace(first, dtype=torch.bfloat16, tables=False, needs_grad=True), first]


def test_the_op_describes_masks_and_key_maps(problems):
    q, k, v, rel = draw(9)
    relative_attention(q, k, v, rel, mask=torch.ones(2, 9, 9, dtype=torch.bool))
    relative_attention(q, k[:, :, :4], v[:, :, :4], None)
    first = AttentionProblem((9, 9), 4, 3, needs_grad=False)
    assert problems == [first, replace(first, tables=False, key_map=(4, 9))]


def test_the_batch_and_the_heads_do_not_matter(problems):
    q, k, v, rel = draw(9)
    relative_attention(q, k, v, rel)
    relative_attention(q[:1, :1], k[:1, :1], v[:1, :1], rel)
    assert problems[0] == problems[1]


def test_transforms_take_the_eager_form():
    q, k, v, rel = draw(12)
    call = lambda q: relative_attention(q, k, v, rel).square().sum()  # noqa: E731
    expected = relative_attention(q.requires_grad_(), k, v, rel, impl="eager").square().sum()
    (slope,) = torch.autograd.grad(expected, q)
    torch.testing.assert_close(grad(call)(q.detach()), slope, rtol=1e-4, atol=1e-5)
    _, tangent = jvp(call, (q.detach(),), (torch.ones_like(q),))
    torch.testing.assert_close(tangent, slope.sum(), rtol=1e-3, atol=1e-3)


def test_one_compiled_graph_serves_every_batch():
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda q, k, v: relative_attention(q, k, v, None), fullgraph=True, backend=counter)
    for batch in (2, 3, 5, 17):
        q, k, v = (torch.randn(batch, 2, 12, 12, d) for d in (4, 4, 3))
        for t in (q, k, v):
            torch._dynamo.mark_dynamic(t, 0)
        compiled(q, k, v)
    assert counter.frame_count == 1


def test_a_named_kernel_that_cannot_run_says_why():
    q, k, v, rel = draw(5)
    with pytest.raises(checks.InputError, match=r"impl='triton' cannot run here: .*; impl='blocked' can"):
        ops.relative_attention(q, k, v, rel, impl="triton")
