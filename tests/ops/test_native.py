"""impl="native": the kernel in C++, on every instruction set that this processor has."""

import copy
import itertools
import math
import os
import re
import shutil
import subprocess
import sys

import oracles
import pytest
import torch
from torch.func import vmap
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from attnconv import AugmentedConv2d, checks, ops
from attnconv.bench.machine import peak_bytes
from attnconv.kernels.relative_attention import native
from attnconv.ops import AttentionProblem, kernel_choice

pytestmark = pytest.mark.skipif(native.MISSING is not None, reason=str(native.MISSING))

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
    [((9, 11), FEW), ((9, 11), MANY), ((40, 33), (1, 1)), ((300,), (1, 2)), ((4, 5), (40, 4)), ((3, 17), (150, 1))],
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


def test_opcheck_of_the_backward():
    q, k, v, rel = inputs((3, 4))
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


def test_derivatives_that_it_lacks_name_the_form_that_has_them():
    q, k, v, rel = inputs((2, 3))
    q.requires_grad_()
    y = ops.relative_attention(q, k, v, rel, impl="native")
    (first,) = torch.autograd.grad(y.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="impl='native' has no second derivative; impl='eager' has one"):
        first.sum().backward()


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


# The library, where it is and where it is not.


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return kept | {"OMP_NUM_THREADS": "1"} | more


@pytest.mark.parametrize("instructions", native.INSTRUCTION_SETS)
def test_each_instruction_set(instructions):
    names = "loops or tails or widths or strides or none or threads"
    if instructions == native.INSTRUCTION_SET:
        pytest.skip("the one that these tests run on")
    code = "from attnconv.kernels.relative_attention import native; print(native.INSTRUCTION_SET, native.MISSING)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(ATTNCONV_ISA=instructions),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    if "lacks" in found:
        pytest.skip(found)
    assert found == f"{instructions} None"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", __file__, "-k", names],
        env=environment(ATTNCONV_ISA=instructions),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 150


def said(code, **more):
    code = f"from attnconv.kernels.relative_attention import native\n{code}"
    done = subprocess.run([sys.executable, "-c", code], env=environment(**more), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_an_unknown_instruction_set_is_named():
    assert said("print(native.MISSING)", ATTNCONV_ISA="sse9") == (
        "ATTNCONV_ISA is 'sse9', none of avx512, avx2, baseline"
    )


def load(monkeypatch, tmp_path, *, library=None, error=None):
    """What `native` finds at import with these two files, as its reason."""
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "native_library.so")
    monkeypatch.setattr(native, "BUILD_ERROR", tmp_path / "error.txt")
    if library is not None:
        native.LIBRARY.write_bytes(library)
    if error is not None:
        native.BUILD_ERROR.write_text(error)
    library, _, reason = native._load()
    assert library is None
    return reason


def test_a_library_that_was_not_built_gives_the_last_error_of_the_compiler(monkeypatch, tmp_path):
    reason = load(monkeypatch, tmp_path, error="kernel.h:1:2: error: no\n")
    assert reason == "its library was not built: kernel.h:1:2: error: no"


def test_a_library_that_is_not_there_says_how_to_get_it(monkeypatch, tmp_path):
    assert load(monkeypatch, tmp_path) == (
        "its library was not built; with a C++ compiler, GCC 12 or Clang 15, reinstall attnconv"
    )


def test_a_library_for_another_machine_does_not_load(monkeypatch, tmp_path):
    reason = load(monkeypatch, tmp_path, library=b"\x7fELF of another processor")
    assert re.fullmatch(r"its library does not load here \(.*\); reinstall attnconv", reason)


def test_without_it_another_kernel_is_chosen_and_the_reason_is_said(monkeypatch):
    monkeypatch.setattr(native, "MISSING", "its library was not built")
    problem = AttentionProblem((32, 32), 20, 2)
    chosen, reasons = kernel_choice.explain_choice(problem)
    assert (chosen, reasons["native"]) == ("blocked", "its library was not built")
    with pytest.raises(checks.InputError, match="impl='native' cannot run here: its library was not built; impl='blo"):
        ops.relative_attention(*inputs((3, 4)), impl="native")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"dtype": torch.float64}, "torch.float64 is none of float32, bfloat16, float16"),
        ({"device_type": "cuda"}, "the device is cuda, not cpu"),
    ],
)
def test_why_not(change, reason):
    assert native.why_not(**{"dtype": torch.float32, "device_type": "cpu"} | change) == reason


def test_rates_are_of_the_instruction_set():
    """A multiply-add a lane and cycle at least, of a clock above 0.5 GHz; an exponential takes several."""
    macs, exps = native.rates()
    width = {"avx512": 16, "avx2": 8, "baseline": 4}[native.INSTRUCTION_SET]
    assert 0.5e9 * width < macs < 50e9 * width
    assert macs / 40 < exps < macs / 4


def test_without_the_library_there_are_no_rates(monkeypatch):
    monkeypatch.setattr(native, "MISSING", "its library was not built")
    with pytest.raises(RuntimeError, match="no rates are measured: its library was not built"):
        native.rates()


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_the_library_has_no_weak_function_that_could_be_of_another_instruction_set():
    """Of two weak functions of one name the linker keeps any, perhaps the one that this processor cannot run."""
    listed = subprocess.run(["nm", "-C", str(native.LIBRARY)], capture_output=True, text=True, check=True).stdout
    symbols = [line.split(maxsplit=2) for line in listed.splitlines() if line[:1] != " "]
    assert len(symbols) > 20
    assert [name for _, kind, name in symbols if kind in "wWvVuiT" and not name.startswith("attnconv_")] == [
        name for _, kind, name in symbols if name in ("_init", "_fini") and kind == "T"
    ]


def test_all_maps_of_a_few_cells():
    for map_size in itertools.product(range(1, 5), repeat=2):
        given = inputs(map_size, heads=(1, 3), d=3, e=1)
        for found, expected in zip(
            results("native", *given), results("eager", *given, dtype=torch.float64), strict=True
        ):
            close(found, expected)


def test_memory_of_a_large_map_stays_under_10_mb_above_inputs_outputs_and_gradients():
    q, k, v, rel = given = inputs((64, 64), d=20, e=2, heads=(1, 8))
    outside = 4 * (sum(t.numel() for t in (q, k, v, *rel)) + v.numel())
    assert peak_bytes(lambda: results("native", *given), torch.device("cpu")) - outside - 2 * 4 * v.numel() < 10e6
