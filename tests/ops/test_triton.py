"""The kernel "triton" where there is no GPU: run in Triton's interpreter, and compiled for a GPU without one."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from attnconv.kernels.relative_attention import triton as kernel

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")

BLOCK_MEMORY = 227 * 1024  # bytes of shared memory that a program may have on the GPUs compiled for here
MOST_SPILLED = 1536  # bytes a thread, most of it outside the inner loops; a tile that is too large takes 5000 and more


@needs_triton
@pytest.mark.parametrize(
    ("cases", "count"),
    [
        ("loops or other_strides or beyond or empty or no_values or it_says or any_layout", 11),
        pytest.param("default_tiles or beyond", 21, marks=pytest.mark.slow),
        pytest.param("small_tiles", 8, marks=pytest.mark.slow),
        pytest.param("masks or key_maps", 22, marks=pytest.mark.slow),
        pytest.param(
            "not default_tiles and not beyond and not small_tiles and not masks and not key_maps",
            25,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_in_the_interpreter(cases, count):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    file = Path(__file__).with_name("triton_interpreted.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(file), "-k", cases],
        env=environment | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    if "only 0-dimensional arrays can be converted" in done.stdout:
        pytest.skip("the interpreter of Triton 3.6 does not run with NumPy 2.4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{count} passed" in done.stdout


ABLE = {"head_dim": 20, "dtype": torch.float32, "device_type": "cuda", "capability": (9, 0)}


@needs_triton
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"dtype": torch.bfloat16, "head_dim": 256, "capability": (8, 0)}, None),
        ({"device_type": "cpu"}, "the device is cpu, not cuda"),
        ({"device_type": "mps"}, "the device is mps, not cuda"),
        ({"dtype": torch.float64}, "torch.float64 is none of float32, bfloat16, float16"),
        ({"dtype": torch.float16, "head_dim": 300}, "head dim 300 is above 256"),
        ({"head_dim": 129}, "head dim 129 is above 128 in float32"),
        ({"capability": (7, 5)}, "compute capability 7.5 is below 8.0"),
    ],
)
def test_why_not(change, reason, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.version, "hip", None)
    assert kernel.why_not(**{**ABLE, **change}) == reason


@needs_triton
def test_amd_is_refused(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert kernel.why_not(**ABLE) == "it is untested on AMD GPUs"


def test_without_triton_it_imports_and_says_so():
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch; from attnconv.kernels.relative_attention import triton\n"
        "print(triton.why_not(head_dim=8, dtype=torch.float32, device_type='cuda'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "triton is not installed"


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dims", [(1, 1), (20, 2), (64, 64), (128, 512)])
def test_tiles_fit_the_programs(dims, dtype, backward):
    sizes = [*range(1, 40), 49, 56, 64, 65, 100, 224]
    for map_size in [(a, h, w) for a in (1, 5) for h in sizes for w in sizes]:
        blocks = kernel.choose_blocks(map_size, *dims, dtype, backward=backward)
        tiles = (blocks.rows, blocks.columns, blocks.lines, blocks.key_columns, blocks.channels)
        assert all(n > 0 and n & (n - 1) == 0 for n in tiles), map_size
        assert min(blocks.rows * blocks.columns, blocks.lines * blocks.key_columns, blocks.channels) >= 16, map_size
        assert max(blocks.rows * blocks.columns, blocks.lines * blocks.key_columns) <= 64, map_size
        assert blocks.lines <= kernel.GROUP, map_size


class Launches:
    """In the place of a program: keeps what a launch would hand to it."""

    def __init__(self, program):
        self.program = program

    def __getitem__(self, grid):
        def launch(*args, **options):
            self.args, self.options = args, options

        return launch


def compile_like_a_launch(program, args, options):
    """The program for a GPU of compute capability 9.0, specialised as a launch with these arguments would."""
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.uint8: "u8"}
    signature, constants, attributes = {}, {}, {}
    for place, (name, value) in enumerate(zip(program.arg_names, args, strict=False)):
        if isinstance(value, torch.Tensor):
            signature[name] = "*" + types[value.dtype]
        elif isinstance(value, float):
            signature[name] = "fp32"
        elif value == 1:
            signature[name], constants[name] = "constexpr", 1
        else:
            signature[name] = "i32"
        if isinstance(value, torch.Tensor) or (name not in constants and value % 16 == 0):
            attributes[(place,)] = [["tt.divisibility", 16]]
    launch = {name: options.pop(name) for name in ("num_warps", "num_stages", "enable_fp_fusion")}
    constants |= options
    signature |= dict.fromkeys(options, "constexpr")
    assert list(signature) == program.arg_names
    return compile(ASTSource(program, signature, constants, attributes), GPUTarget("cuda", 90, 32), launch)


def spilled(compiled, folder):
    """Bytes a thread keeps in memory for want of registers."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        pytest.skip("this triton ships no cuobjdump")
    (folder / "program.cubin").write_bytes(compiled.asm["cubin"])
    command = [str(tool), "--dump-resource-usage", str(folder / "program.cubin")]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(re.search(r"STACK:(\d+)", report)[1])


COMPILED = [  # map, D, E, dtype, whether there are tables and a mask
    ((256,), 32, 32, torch.bfloat16, True, False),
    ((7, 7), 64, 64, torch.bfloat16, True, False),
    ((14, 14), 40, 64, torch.bfloat16, False, False),
    ((32, 32), 20, 2, torch.float16, True, False),
    ((8, 9, 10), 32, 32, torch.bfloat16, True, False),
    ((14, 14), 40, 64, torch.bfloat16, True, True),
    ((32, 32), 20, 2, torch.float32, False, True),
    ((64, 64), 128, 512, torch.bfloat16, True, False),
    ((32, 32), 20, 2, torch.float32, True, False),
    ((3, 5, 20), 64, 64, torch.float32, False, False),
]


@needs_triton
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(
    ("map_size", "d", "e", "dtype", "tables", "masked"),
    [case if at == 0 else pytest.param(*case, marks=pytest.mark.slow) for at, case in enumerate(COMPILED)],
)
def test_compiles_for_a_gpu(map_size, d, e, dtype, tables, masked, direction, monkeypatch, tmp_path):
    from attnconv.kernels.relative_attention import triton_programs

    program = getattr(triton_programs, direction)
    if not hasattr(program, "cache_key"):
        pytest.skip("TRITON_INTERPRET is set")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    launches = Launches(program)
    monkeypatch.setattr(triton_programs, direction, launches)
    q, k, v = (torch.zeros(2, *map_size, 8, width, dtype=dtype).movedim(-2, 1) for width in (d, d, e))
    rel = [torch.zeros(2 * n - 1, d, dtype=dtype) for n in map_size] if tables else []
    mask = torch.ones(2, *map_size, dtype=torch.bool) if masked else None
    if direction == "forward":
        kernel.forward(q, k, v, rel, mask, 0.3)
    else:
        kernel.backward(v, q, k, v, rel, mask, kernel.empty_output(q, v), q.new_zeros(q.shape[:-1]).float(), 0.3)
    compiled = compile_like_a_launch(program, launches.args, launches.options)

    assert compiled.metadata.shared <= BLOCK_MEMORY
    assert spilled(compiled, tmp_path) <= MOST_SPILLED
    if dtype != torch.float32:  # then what is in float32 is read and written by one program: reading it early is wrong
        prefetched = re.findall(r"async_copy_global_to_local.*", compiled.asm["ttgir"])
        assert not [line for line in prefetched if "ptr<f32>" in line]
