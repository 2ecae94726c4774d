"""impl="native": the kernel in C++, on every instruction set that this processor has."""

import copy
import itertools
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import oracles
import pytest
import torch
from torch.func import vmap
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from attnconv import AugmentedConv2d, ops
from attnconv.kernels.relative_attention import native

pytestmark = pytest.mark.skipif(
    native.MISSING is not None and not os.environ.get("CI"), reason=f"native: {native.MISSING}"
)

MAPS = [(5,), (37,), (3, 5), (5, 3), (1, 4), (7, 1), (1, 1), (2, 19), (2, 3, 4), (3, 1, 5)]
FEW, MANY = (2, 1), (3, 11)  # images and heads: one head after the other, and as many at once as lanes


def inputs(map_size, *, d=5, e=2, heads=FEW, dtype=torch.float32, tables=True, size=1.0):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return (size * torch.randn(*shape, generator=generator)).to(dtype)

    q, k, v = (draw(*heads, *map_size, width) for width in (d, d, e))
    return q, k, v, [draw(2 * n - 1, d) for n in map_size] if tables else None


def close(found, expected):
    """Equal up to some roundings of the largest number."""
    scale = float(expected.abs().max()) if expected.numel() else 1.0
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=5e-6 * scale + 1e-6)


def results(impl, q, k, v, rel, *, scale=0.4, dtype=None):
    """The output and all gradients."""
    arguments = [t.detach().to(dtype or t.dtype).requires_grad_() for t in (q, k, v, *(rel or ()))]
    y = ops.relative_attention(*arguments[:3], arguments[3:] or None, scale=scale, impl=impl)
    upper = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, arguments, upper)]


@pytest.mark.parametrize("map_size", MAPS)
@pytest.mark.parametrize("heads", [FEW, (2, 5)])
@pytest.mark.parametrize("tables", [True, False])
def test_matches_the_loops(map_size, heads, tables):
    q, k, v, rel = inputs(map_size, heads=heads, tables=tables)
    y = ops.relative_attention(q, k, v, rel, scale=0.4, impl="native")
    close(y, torch.from_numpy(oracles.relative_attention(q, k, v, rel, scale=0.4)))


@pytest.mark.parametrize("map_size", MAPS)
@pytest.mark.parametrize("heads", [FEW, MANY])
@pytest.mark.parametrize("tables", [True, False])
def test_gradients_are_those_of_the_eager_form_in_float64(map_size, heads, tables):
    given = inputs(map_size, heads=heads, tables=tables)
    for found, expected in zip(results("native", *given), results("eager", *given, dtype=torch.float64), strict=True):
        close(found, expected)


# Every number of vectors that a tile may have left over, of queries too; widths around that of a vector.
@pytest.mark.parametrize("width", [1, 2, 3, 15, 16, 17, 31, 33, 50, 65, 81, 97, 113, 130])
@pytest.mark.parametrize("rows", [1, 3])
def test_tails_of_tiles(width, rows):
    given = inputs((rows, width), d=7, e=3)
    for found, expected in zip(results("native", *given), results("eager", *given, dtype=torch.float64), strict=True):
        close(found, expected)


@pytest.mark.parametrize("heads", range(1, 36, 3))
def test_tails_of_heads(heads):
    given = inputs((3, 5), heads=(1, heads), d=3)
    for found, expected in zip(results("native", *given), results("eager", *given, dtype=torch.float64), strict=True):
        close(found, expected)


def test_queries_in_parts_where_heads_fill_the_lanes():
    given = inputs((13, 15), heads=(2, 16))
    for found, expected in zip(results("native", *given), results("eager", *given, dtype=torch.float64), strict=True):
        close(found, expected)


@pytest.mark.parametrize(("d", "e"), [(1, 1), (2, 7), (20, 3), (33, 48), (64, 130), (3, 65)])
@pytest.mark.parametrize("heads", [FEW, MANY])
def test_widths_of_heads(d, e, heads):
    given = inputs((4, 9), heads=heads, d=d, e=e)
    for found, expected in zip(results("native", *given), results("eager", *given, dtype=torch.float64), strict=True):
        close(found, expected)


LAYOUTS = {
    "channels first": lambda t: t.movedim(-1, 2).contiguous().movedim(2, -1),
    "channels last": lambda t: t.movedim(1, -2).contiguous().movedim(-2, 1),
    "reversed axes": lambda t: t.permute(*range(t.dim() - 1, -1, -1)).contiguous().permute(*range(t.dim() - 1, -1, -1)),
    "every second channel": lambda t: torch.stack([t, t + 1], -1).flatten(-2)[..., ::2],
    "one image for all": lambda t: t[:1].expand(t.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("heads", [FEW, MANY])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_strides_do_not_matter(layout, heads, dtype):
    q, k, v, rel = inputs((6, 17), heads=heads, d=6, e=5, dtype=dtype)
    moved = [LAYOUTS[layout](t) for t in (q, k, v)]
    tables = [t.T.contiguous().T for t in rel]
    upper = LAYOUTS[layout](torch.randn(v.shape).to(dtype))

    def everything(q, k, v, rel, upper):
        out, lse = native.forward(q, k, v, rel, None, 0.4)
        *slopes, of_tables = native.backward(upper, q, k, v, rel, None, out, lse, 0.4)
        return [out, *slopes, *of_tables]

    plain = everything(*(t.contiguous() for t in moved), rel, upper.contiguous())
    for found, expected in zip(everything(*moved, tables, upper), plain, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, -1e30])
@pytest.mark.parametrize("where", ["q", "k", "v", "rows", "columns"])
@pytest.mark.parametrize("heads", [FEW, MANY])
def test_numbers_that_are_none_and_huge_ones_are_as_eager_gives_them(value, where, heads):
    q, k, v, rel = inputs((4, 9), heads=heads)
    place = {"q": q, "k": k, "v": v, "rows": rel[0], "columns": rel[1]}[where]
    place.view(-1)[3] = value
    with torch.no_grad():
        found, expected = (ops.relative_attention(q, k, v, rel, impl=impl) for impl in ("native", "eager"))
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["q", "k", "v", "rows", "columns"])
@pytest.mark.parametrize("heads", [FEW, MANY])
def test_gradients_of_numbers_that_are_none(value, where, heads):
    q, k, v, rel = inputs((4, 9), heads=heads)
    place = {"q": q, "k": k, "v": v, "rows": rel[0], "columns": rel[1]}[where]
    place.view(-1)[3] = value
    for found, expected in zip(results("native", q, k, v, rel), results("eager", q, k, v, rel), strict=True):
        fit = expected.isfinite()
        assert torch.equal(found.isfinite(), fit)
        torch.testing.assert_close(found[fit], expected[fit], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("where", ["q", "k", "rows", "columns"])
@pytest.mark.parametrize("heads", [FEW, MANY])
def test_huge_logits_leave_other_queries_gradients_alone(where, heads):
    q, k, v, rel = inputs((4, 9), heads=heads, tables=True)
    place = {"q": q, "k": k, "rows": rel[0], "columns": rel[1]}[where]
    place.view(-1)[3] = 1e30
    for found, expected in zip(results("native", q, k, v, rel), results("eager", q, k, v, rel), strict=True):
        assert torch.equal(found.isfinite(), expected.isfinite())


@pytest.mark.parametrize("size", [1e-30, 1e-3, 6.0, 40.0, 2000.0])
@pytest.mark.parametrize("heads", [FEW, MANY])
def test_logits_of_all_sizes(size, heads):
    given = inputs((4, 19), heads=heads, size=size)
    exact = ops.relative_attention(*(t.double() for t in given[:3]), [t.double() for t in given[3]], impl="eager")
    native_error, usual = (
        (ops.relative_attention(*given, impl=impl).double() - exact).abs().max() for impl in ("native", "eager")
    )
    assert native_error <= 4 * usual + 4 * torch.finfo(torch.float32).eps * size


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 2, 0, 4)], ids=["batch", "heads", "map"])
def test_without_elements(shape):
    given = [torch.zeros(*shape, d, requires_grad=True) for d in (3, 3, 2)]
    y = ops.relative_attention(*given, None, impl="native")
    y.sum().backward()
    assert y.shape == (*shape, 2)
    assert [t.grad.shape for t in given] == [t.shape for t in given]


@pytest.mark.parametrize(
    ("map_size", "heads"),
    [
        ((9, 11), FEW),
        ((9, 11), MANY),
        ((13, 15), (2, 16)),
        ((40, 33), (1, 1)),
        ((300,), (1, 2)),
        ((4, 5), (40, 4)),
        ((3, 17), (150, 1)),
    ],
)
def test_bitwise_equal_for_any_number_of_threads(map_size, heads):
    given = inputs(map_size, heads=heads, d=6, e=3)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7, 7):
            torch.set_num_threads(threads)
            found.append(results("native", *given))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


def test_calls_at_the_same_time_have_workspaces_of_their_own():
    given = [inputs(map_size, heads=heads) for map_size, heads in (((9, 11), MANY), ((5,), FEW), ((40, 33), (1, 1)))]
    alone = [results("native", *one) for one in given]
    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(lambda one: results("native", *one), given * 20))
    for expected, found in zip(alone * 20, together, strict=True):
        assert all(torch.equal(one, two) for one, two in zip(expected, found, strict=True))


def test_the_output_merges_into_channels_last_without_a_copy():
    q, k, v, rel = inputs((3, 5), heads=(2, 3))
    y = ops.relative_attention(q, k, v, rel, impl="native")
    merged = y.movedim(-1, 2).flatten(1, 2)
    assert merged.is_contiguous(memory_format=torch.channels_last)
    assert merged.data_ptr() == y.data_ptr()


@pytest.mark.parametrize("tables", [True, False])
def test_opcheck(tables):
    q, k, v, rel = inputs((3, 4), tables=tables)
    arguments = tuple(t.requires_grad_() for t in (q, k, v)), [t.requires_grad_() for t in rel or ()]
    torch.library.opcheck(torch.ops.attnconv.native_attention.default, (*arguments[0], arguments[1], None, 0.4))


@pytest.mark.parametrize("turned", [False, True])
def test_opcheck_of_the_backward(turned):
    q, k, v, rel = inputs((3, 4))
    rel = [table.T.contiguous().T if turned else table for table in rel]
    out, lse = torch.ops.attnconv.native_attention(q, k, v, rel, None, 0.4)
    arguments = (torch.ones_like(out), q, k, v, rel, None, out, lse, 0.4)
    torch.library.opcheck(torch.ops.attnconv.native_attention_backward.default, arguments)


def layer(impl="native"):
    torch.manual_seed(0)
    return AugmentedConv2d(
        4, 10, 3, padding=1, key_channels=6, value_channels=4, num_heads=2, feat_size=9, impl=impl
    )  # fmt: skip


IMAGE = torch.randn(3, 4, 7, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("impl", ["native", "auto"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_in_one_graph_forward_and_backward(impl, dynamic):
    torch.compiler.reset()
    plain, twin = layer(), layer(impl)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager", dynamic=dynamic or None)
    for images in (IMAGE, IMAGE[:2]):
        compiled(images).square().mean().backward()
        plain(images).square().mean().backward()
    for one, other in zip(twin.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_the_first_call_of_a_process_may_be_compiled():
    code = (
        "import torch, attnconv\n"
        "layer = attnconv.AugmentedConv2d(4, 10, 3, key_channels=6, value_channels=4, num_heads=2, feat_size=9)\n"
        "y = torch.compile(layer, fullgraph=True, backend='aot_eager')(torch.randn(1, 4, 9, 7))\n"
        "y.sum().backward(); print(*y.shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "1 10 7 5", done.stderr


def test_checkpointing():
    module = layer()
    module(IMAGE).square().mean().backward()
    again = copy.deepcopy(module)
    again.zero_grad()
    checkpoint(again, IMAGE, use_reentrant=False).square().mean().backward()
    for one, other in zip(module.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_vmap_over_stacked_tables():
    q, k, v, rel = inputs((3, 4))
    stacked = [torch.stack([t, t.flip(0)]) for t in rel]
    together = vmap(lambda *tables: ops.relative_attention(q, k, v, tables, impl="native"))(*stacked)
    torch.testing.assert_close(together[1], ops.relative_attention(q, k, v, [t.flip(0) for t in rel], impl="eager"))


def test_flops_are_counted():
    q, k, v, rel = inputs((3, 5))
    counts = []
    for impl in ("eager", "native"):
        with FlopCounterMode(display=False) as counter:
            ops.relative_attention(q, k, v, rel, impl=impl)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_the_number_of_threads_is_left_alone():
    threads = torch.get_num_threads()
    ops.relative_attention(*inputs((3, 4)), impl="native")
    assert torch.get_num_threads() == threads


def test_all_maps_of_a_few_cells():
    for map_size in itertools.product(range(1, 5), repeat=2):
        given = inputs(map_size, heads=(1, 3), d=3, e=1)
        for found, expected in zip(
            results("native", *given), results("eager", *given, dtype=torch.float64), strict=True
        ):
            close(found, expected)


# Forward and backward of (1, 8, 64, 64), D 20, E 2, on two threads: the bytes above inputs, output and gradients.
PEAK = """
import resource, sys, torch
from pathlib import Path
from attnconv import ops
from attnconv.bench.machine import peak_bytes

torch.set_num_threads(2)

def inputs(rows, columns):
    q, k, v = (torch.randn(1, 8, rows, columns, width, requires_grad=True) for width in (20, 20, 2))
    rel = [torch.randn(2 * n - 1, 20, requires_grad=True) for n in (rows, columns)]
    return (q, k, v, *rel), torch.randn(v.shape)

def step(arguments, upper):
    y = ops.relative_attention(*arguments[:3], arguments[3:], impl="native")
    return y, torch.autograd.grad(y, arguments, upper)

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

step(*inputs(5, 7))  # starts threads and reads code
arguments, upper = inputs(64, 64)
made = 4 * (upper.numel() + sum(t.numel() for t in arguments))  # the output and the gradients
filled = torch.ones(max(0, most() - resident()) // 4 + 2**20)  # what importing took at its most, and gave back
before = most()
y, grads = step(arguments, upper)
by_system = most() - before - made
del y, grads
print(resident() >= before - 2**22, peak_bytes(lambda: step(arguments, upper), torch.device("cpu")) - made, by_system)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_large_map_stays_under_10_mb_above_inputs_outputs_and_gradients():
    """As the profiler sees it, and as the system does in a process of its own, where every large tensor is mapped."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
    )
    full, *found = done.stdout.split()
    assert (full, done.stderr) == ("True", "")
    by_profiler, by_system = map(int, found)
    assert 1e6 < by_profiler < 10e6
    assert 1e6 < by_system < 10e6
