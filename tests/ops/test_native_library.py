"""The library of impl="native": how it is compiled, for which processors, and what is said where there is none."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import compilers
import pytest
import torch

from attnconv import checks, ops
from attnconv.kernels.relative_attention import native
from attnconv.ops import AttentionProblem, kernel_choice

OP_TESTS = [Path(__file__).with_name(name) for name in ("test_native.py", "test_mask.py")]
NUMBERS = (
    "test_native and not memory and (matches or gradients or tails or widths or strides or numbers or logits"
    " or elements or threads or cells or parts or workspaces)"
    " or test_mask and native and not (opcheck or vmap or compile or meta or flops)"
)

needs_library = pytest.mark.skipif(
    native.MISSING is not None and not os.environ.get("CI"), reason=f"native: {native.MISSING}"
)


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "ATTNCONV_ISA"))}
    return kept | {"OMP_NUM_THREADS": "1"} | more


def said(code, **more):
    """Return the output of a process that must print nothing on stderr."""
    code = f"from attnconv.kernels.relative_attention import native\n{code}"
    done = subprocess.run([sys.executable, "-c", code], env=environment(**more), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def runnable():
    """The instruction sets that the library can run on this processor."""
    if native.MISSING is not None:
        return list(native.INSTRUCTION_SETS)
    found = [name for name in native.INSTRUCTION_SETS if native._LIBRARY.attnconv_select(name.encode())]
    native._LIBRARY.attnconv_select(native.INSTRUCTION_SET.encode())
    return found


def run_op_tests(words, **more):
    """Run the tests of the op that the expression ``words`` takes, in a process of their own: how many passed."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *OP_TESTS, "-k", words],
        env=environment(**more),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return int(re.search(r"(\d+) passed", done.stdout)[1])


@needs_library
@pytest.mark.parametrize("instructions", [name for name in runnable() if name != native.INSTRUCTION_SET] or runnable())
def test_each_other_instruction_set(instructions):
    assert said("print(native.INSTRUCTION_SET)", ATTNCONV_ISA=instructions) == instructions
    assert run_op_tests(NUMBERS, ATTNCONV_ISA=instructions) > 250


@needs_library
def test_the_library_is_there():
    assert native.MISSING is None
    assert runnable()[0] == native.INSTRUCTION_SET or "ATTNCONV_ISA" in os.environ
    assert runnable()[-1] == "baseline"


# What is compiled.


@pytest.fixture(scope="module")
def setup_py():
    return compilers.setup_py()


def gcc():
    return compilers.needed("g++")


def aarch64():
    return compilers.needed("aarch64-linux-gnu-g++")


@pytest.mark.parametrize("compiler", [gcc, compilers.needed_clang, aarch64], ids=["gcc", "clang", "aarch64"])
def test_it_compiles_without_a_warning_to_objects_without_weak_symbols(compiler, setup_py, monkeypatch, tmp_path):
    """The linker keeps any of two weak functions of one name, perhaps the one that this processor cannot run."""
    monkeypatch.setenv("CXXFLAGS", "-O1 -Wextra -Werror")
    objects = setup_py["compile_units"]([compiler()], tmp_path)
    nm = compilers.needed("aarch64-linux-gnu-nm" if compiler is aarch64 else "nm")
    assert {path.stem for path in objects} >= {"library", "baseline"}
    for path in objects:
        listed = subprocess.run([nm, "-C", path], capture_output=True, text=True, check=True).stdout
        symbols = [line.split(maxsplit=2) for line in listed.splitlines() if line[:1] != " "]
        assert len(symbols) > 4
        offered = [name for _, kind, name in symbols if kind in "uvw" or kind.isupper()]
        assert offered
        assert [name for name in offered if not name.lstrip("_").startswith("attnconv_")] == []
    if compiler is not aarch64 and os.uname().machine == "x86_64":
        assert len(objects) == 4


@needs_library
def test_the_library_offers_its_calls_alone():
    listed = subprocess.run(
        [compilers.needed("nm"), "-g", "--defined-only", native.LIBRARY], capture_output=True, text=True, check=True
    ).stdout
    names = ("version", "select", "rates", "workspace_bytes", "forward", "backward")
    found = {line.split()[-1].lstrip("_") for line in listed.splitlines()} - {"init", "fini"}
    assert found == {f"attnconv_{name}" for name in names}


def package_with_library(setup_py, folder):
    """A copy of the package in ``folder``, with a library of its own."""
    ignored = shutil.ignore_patterns("__pycache__", native.LIBRARY.name, native.BUILD_ERROR.name)
    shutil.copytree(compilers.ROOT / "src" / "attnconv", folder / "attnconv", ignore=ignored)
    library = folder / native.LIBRARY.relative_to(compilers.ROOT / "src")
    setup_py["build_library"](library)
    return library


@pytest.mark.slow
def test_a_library_compiled_by_clang(setup_py, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", compilers.needed_clang())
    library = package_with_library(setup_py, tmp_path)
    found = said("print(native.LIBRARY, native.MISSING)", PYTHONPATH=str(tmp_path))
    assert found == f"{library} None"
    for instructions in runnable():
        assert run_op_tests(NUMBERS, PYTHONPATH=str(tmp_path), ATTNCONV_ISA=instructions) > 250


@pytest.fixture(scope="module")
def watched(setup_py, tmp_path_factory):
    """The environment of a process whose library ends it at an access out of bounds and at undefined behaviour."""
    gxx, folder = gcc(), tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", gxx)
        patch.setenv("CXXFLAGS", "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all")
        package_with_library(setup_py, folder)
    runtime = subprocess.run([gxx, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout
    return {
        "PYTHONPATH": str(folder),
        "LD_PRELOAD": str(Path(runtime.strip()).resolve()),
        "ASAN_OPTIONS": "detect_leaks=0",
    }


@pytest.mark.slow
@needs_library
@pytest.mark.parametrize("instructions", runnable())
def test_sanitizers_find_nothing(watched, instructions):
    library, found = said("print(native.LIBRARY, native.INSTRUCTION_SET)", **watched, ATTNCONV_ISA=instructions).split()
    assert Path(library).is_relative_to(watched["PYTHONPATH"])
    assert found == instructions
    assert run_op_tests(NUMBERS, **watched, ATTNCONV_ISA=instructions) > 250


@pytest.mark.slow
@needs_library
def test_sanitizers_find_a_workspace_that_is_too_small(watched):
    code = """
import torch
from attnconv import ops
from attnconv.kernels.relative_attention import native
native._LIBRARY.attnconv_workspace_bytes = lambda *_: 64
q = torch.randn(1, 2, 8, 9, 4)
ops.relative_attention(q, q, q, None, impl="native")
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(**watched), capture_output=True, text=True)
    assert done.returncode != 0
    assert "AddressSanitizer" in done.stderr


@pytest.fixture(scope="module")
def emulated(setup_py, tmp_path_factory):
    """The command that runs native_calls.cpp with the kernel for aarch64."""
    emulator, gxx = compilers.needed("qemu-aarch64-static", "qemu-aarch64"), aarch64()
    folder = tmp_path_factory.mktemp("aarch64")
    objects = setup_py["compile_units"]([gxx], folder)
    calls = Path(__file__).with_name("native_calls.cpp")
    setup_py["run"]([gxx, "-std=c++20", "-O1", "-static", str(calls), *map(str, objects), "-o", str(folder / "calls")])
    return [emulator, str(folder / "calls")]


@pytest.mark.slow
@pytest.mark.parametrize("map_size", [(3, 5, 7), (2, 9, 21), (4, 2, 35)], ids=str)
@pytest.mark.parametrize(("d", "e"), [(5, 2), (20, 3), (6, 65)])
@pytest.mark.parametrize("heads", [(2, 1), (3, 11)], ids=str)
def test_the_kernel_for_aarch64_gives_what_eager_gives(map_size, d, e, heads, emulated):
    generator = torch.Generator().manual_seed(0)
    q, k, v, upper = (torch.randn(*heads, *map_size, n, generator=generator) for n in (d, d, e, e))
    rel = [torch.randn(2 * n - 1, d, generator=generator) for n in map_size]
    given = [t.double().requires_grad_() for t in (q, k, v, *rel)]
    y = ops.relative_attention(*given[:3], given[3:], scale=0.5, impl="eager")
    expected = [y.detach(), *torch.autograd.grad(y, given, upper.double())]
    numbers = torch.tensor([*heads, *map_size, d, e])
    stdin = b"".join(t.numpy().tobytes() for t in (numbers, q, k, v, upper, *rel))
    done = subprocess.run(emulated, input=stdin, capture_output=True, check=True)
    found = torch.frombuffer(bytearray(done.stdout), dtype=torch.float32).split([t.numel() for t in expected])
    for one, other in zip(found, expected, strict=True):
        bound = 5e-6 * float(other.abs().max()) + 1e-6
        torch.testing.assert_close(one.double(), other.flatten(), rtol=0, atol=bound)


# What is said where there is none.


def load(monkeypatch, tmp_path, *, library=None, error=None):
    """Return the reason that `native` finds at import with these two files."""
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
    assert reason == (
        "its library was not built: kernel.h:1:2: error: no; install GCC 12 or Clang 15, or newer, and attnconv again"
    )


def test_a_library_that_is_not_there_says_how_to_get_it(monkeypatch, tmp_path):
    assert load(monkeypatch, tmp_path) == (
        "its library was not built; install GCC 12 or Clang 15, or newer, and attnconv again"
    )


def test_a_file_that_is_no_library_does_not_load(monkeypatch, tmp_path):
    reason = load(monkeypatch, tmp_path, library=b"\x7fELF of another processor")
    assert re.fullmatch(r"its library does not load here \(.*\); reinstall attnconv", reason)


@pytest.mark.skipif(os.uname().machine == "aarch64", reason="where it would load")
def test_a_library_for_another_processor_does_not_load(setup_py, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", aarch64())
    setup_py["build_library"](tmp_path / "aarch64.so")
    reason = load(monkeypatch, tmp_path, library=(tmp_path / "aarch64.so").read_bytes())
    assert re.fullmatch(r"its library does not load here \(.*\); reinstall attnconv", reason)


class Library:
    """A library whose answers are given."""

    def __init__(self, **answers):
        for name, answer in answers.items():
            setattr(self, name, lambda *_, answer=answer: answer)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({}, r"its library does not load here \(.*attnconv_version.*\); reinstall attnconv"),
        (
            {"attnconv_version": native.VERSION},
            r"its library does not load here \(.*torch_parallel_for.*\); reinstall attnconv",
        ),
        (
            {"attnconv_version": native.VERSION + 1, "torch_parallel_for": 0},
            "its library is of another version of attnconv; reinstall it",
        ),
        (
            dict.fromkeys(("rates", "workspace_bytes", "forward", "backward"))
            | {"attnconv_version": native.VERSION, "torch_parallel_for": 0, "attnconv_select": None},
            "ATTNCONV_ISA is 'avx512', which this processor lacks",
        ),
    ],
)
def test_a_library_that_does_not_fit(answers, reason, monkeypatch, tmp_path):
    """It is of another attnconv, beside another torch, or on another processor."""
    prefixed = {n if n.startswith(("attnconv", "torch")) else f"attnconv_{n}": a for n, a in answers.items()}
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library(**prefixed))
    monkeypatch.setenv("ATTNCONV_ISA", "avx512")
    assert re.fullmatch(reason, load(monkeypatch, tmp_path, library=b"any"))


def test_an_unknown_instruction_set_is_named():
    assert said("print(native.MISSING)", ATTNCONV_ISA="sse9") == (
        "ATTNCONV_ISA is 'sse9', none of avx512, avx2, baseline"
    )


def test_without_it_another_kernel_is_chosen_and_the_reason_is_said(monkeypatch):
    monkeypatch.setattr(native, "MISSING", "its library was not built")
    problem = AttentionProblem((32, 32), 20, 2)
    chosen, reasons = kernel_choice.explain_choice(problem)
    assert (chosen, reasons["native"]) == ("blocked", "its library was not built")
    q = torch.randn(2, 2, 3, 4, 5)
    with pytest.raises(checks.InputError, match="impl='native' cannot run here: its library was not built; impl='blo"):
        ops.relative_attention(q, q, q, None, impl="native")


@needs_library
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


@needs_library
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


def test_a_parallel_loop_that_fails_raises(monkeypatch):
    fails = ctypes.CFUNCTYPE(ctypes.c_int32)(lambda: 1)
    monkeypatch.setattr(native, "_PARALLEL_FOR", ctypes.cast(fails, ctypes.c_void_p))
    q = torch.randn(2, 2, 3, 4, 5)
    with pytest.raises(RuntimeError, match="torch could not run the parallel loop of impl='native'"):
        ops.relative_attention(q, q, q, None, impl="native")


@needs_library
def test_what_it_cannot_do_is_an_exception_of_python_and_nothing_on_stderr():
    code = """
import torch
from attnconv import ops
q = torch.randn(2, 2, 3, 4, 5)
rel = [torch.randn(2 * n - 1, 5) for n in (3, 4)]
tables = [{"rel": rel[:1]}, {"rel": [table[1:] for table in rel]}]
for change in ({"q": q.double()}, {"q": q.to("meta")}, {"k": q[..., :3]}, *tables):
    try:
        ops.relative_attention(**{"q": q, "k": q, "v": q, "rel": rel} | change, impl="native")
    except ValueError as error:
        assert str(error).count("\\n") == 0
        print("refused")
for x in (q * float("nan"), q * 1e38, q[:0], q[..., :0]):
    ops.relative_attention(q[: len(x)], q[: len(x)], x, rel, impl="native")
"""
    assert said(code).split() == ["refused"] * 5
