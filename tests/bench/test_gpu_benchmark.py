"""The benchmark of `make gpu`: what it needs, its table, and machines without a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks import gpu

from attnconv.bench.cases import RELATIVE, RELATIVE_NAMES, RelativeCase
from attnconv.bench.records import load

ROOT = Path(__file__).parents[2]


def record(contestant, seconds, **more):
    return {
        "study": "relative_attention", "case": "G1", "shape": {"B": 128}, "pass": "forward+backward",
        "dtype": "bfloat16", "contestant": contestant, "baseline": "auto", "seconds": seconds, "peak_bytes": 10**6,
        "flops": 10**9, "exps": 10**6, "why_not": None if seconds else "not measured: the time was up",
        "matmul_flops_per_s": 1e12, "exps_per_s": 1e12, "session": "s", "date": "2026-01-01",
        "machine": {"name": "GPU 1", "device": "cuda", "threads": 1, "torch": "2.11", "triton": "3.6"}, **more,
    }  # fmt: skip


RECORDS = [record("auto", [0.5, 1.0, 2.0]), record("flex", [2.0, 2.0, 2.0]), record("eager", [])]
TABLE = """GPU 1, torch 2.11, triton 3.6

G1 (B 128), forward+backward, bfloat16, floor 1 ms; ratios to auto
candidate  median ms      min - max  ratio  ratios of rounds  peak MB
auto            1000  500 - 2000   1.00       1.00 - 1.00      1.0
flex            2000  2000 - 2000   2.00       1.00 - 4.00      1.0
eager: not measured: the time was up"""


def words(text):
    return [line.split() for line in text.splitlines()]


def test_the_table_in_plain_text():
    found = gpu.text(RECORDS)
    assert words(found) == words(TABLE)
    _, _, _, header, first, second, _ = found.splitlines()
    assert len(header) == len(first) == len(second)
    assert gpu.text([]) == ""


def test_without_a_gpu_it_says_so_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "attnconv: error: no CUDA device here, so nothing was measured\n"


def test_with_a_gpu_the_records_are_shown(monkeypatch, capsys, tmp_path):
    asked = []

    def measure(*given, **more):
        asked.append((*given, more))
        return RECORDS

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "measure", measure)
    assert gpu.main(7.0, tmp_path) == 0
    assert words(capsys.readouterr().out) == words(TABLE)
    assert asked == [(torch.device("cuda", 0), torch.bfloat16, {"seconds": 7.0, "file": tmp_path / "gpu.jsonl"})]


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """All of it on the CPU, with small sizes and without a compiler, in so many seconds."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr("attnconv.bench.machine.SECONDS", 0.0)
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    monkeypatch.setattr(gpu, "NETWORK", ("aa_convnet3", 3, 8, 5))
    monkeypatch.setattr(gpu, "RELATIVE", (RelativeCase("G1", 2, 2, (3, 5), 6, 4), *RELATIVE[:1]))
    file = tmp_path / "gpu.jsonl"
    return lambda seconds: (
        gpu.measure(torch.device("cpu"), torch.float32, seconds=seconds, file=file),
        load(file),
    )


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_it_measures_attention_and_then_a_training_step(tiny):
    found, written = tiny(100.0)
    assert found == written
    assert [(line["case"], line["pass"], line["contestant"]) for line in found] == [
        *(("G1", "forward+backward", name) for name in RELATIVE_NAMES if name in gpu.CANDIDATES),
        ("aa_convnet3", "training step", "convnet3"),
        ("aa_convnet3", "training step", "aa_convnet3"),
    ]
    assert [line["contestant"] for line in found if not line["seconds"]] == ["triton", "flex"]


def test_it_says_what_it_had_no_time_for(tiny):
    found, _ = tiny(-1.0)
    assert len(found) == len(gpu.CANDIDATES) + 2
    assert {line["why_not"] for line in found} == {"not measured: the time was up"}


def test_it_measures_the_promised_cases():
    shapes = [(c.batch, c.heads, *c.map_size, c.key_dim, c.value_dim) for c in RELATIVE if c.name.startswith("G")]
    assert shapes == [(128, 8, 32, 32, 20, 2), (128, 8, 16, 16, 20, 4), (128, 8, 28, 28, 20, 2)]
    assert gpu.NETWORK == ("aa_wide_resnet28_10", 128, 32, 100)
    assert set(gpu.CANDIDATES) <= set(RELATIVE_NAMES)


def test_it_needs_torch_and_numpy_alone():
    blocked = ["cyclopts", "rich", "matplotlib", "torchvision", "lightning_fabric", "timm", "scipy", "sklearn", "yaml"]
    code = (
        f"import sys\nfor name in {blocked}:\n    sys.modules[name] = None\n"
        "import runpy\nrunpy.run_path('benchmarks/gpu.py', run_name='__main__')"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("no CUDA device here, so nothing was measured\n")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="would run all of it")
def test_make_gpu_without_a_gpu_ends_at_once():
    done = subprocess.run(["make", "gpu", f"PYTHON={sys.executable}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2  # make's own, for a command that left with 1
    assert done.stderr.splitlines()[0] == "no CUDA device: nothing to do"
    assert "pytest" not in done.stdout


@pytest.mark.slow
def test_the_gpu_tests_are_found_without_the_ini_file():
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir=.", "-p", "no:cacheprovider", "-q", "-m",
            "gpu", "--collect-only", "tests/test_gpu.py",
        ],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "src"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_gpu.py::test_layers_under_autocast" in done.stdout
