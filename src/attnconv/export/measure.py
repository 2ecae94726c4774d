"""Time and memory of an exported network beside PyTorch's own ways to run it, one image at a time.

Times are of one process in which the ways take turns; memory is the peak of a process of its own for each.
"""

import logging
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from attnconv.bench import benchmark
from attnconv.bench.benchmark import FORWARD, Benchmark, Settings
from attnconv.bench.machine import Call
from attnconv.export.quiet import logging_only

ROUNDS = 11
BUDGET = 20.0  # seconds of all rounds together
EAGER, COMPILED = "PyTorch", "torch.compile"
FOOTPRINT = Path(__file__).with_name("footprint.py")


@dataclass(frozen=True)
class Measured:
    """One way to run a network on one image."""

    name: str
    milliseconds: float | None  # median of the rounds
    fastest: float | None
    slowest: float | None
    peak_bytes: int | None  # of a process that loads the network and runs it once; None where that is not known
    why_not: str | None = None


def measure(
    model: nn.Module, weights: Path, files: dict[str, Path], *, image: Tensor, tell: Callable[[str], None]
) -> list[Measured]:
    """Run ``model`` plain and compiled, and each of ``files``, on ``image``: how long it takes and what it holds.

    Args:
        model: on the CPU, in eval mode, folded.
        weights: the same network as a file of `export_weights`.
        files: exported networks, just written by this process, under the names to print.
        image: (1, C, H, W).
        tell: is told what is being done.
    """
    from attnconv.export.load import load_exported

    ways: dict[str, tuple[Callable[[], Callable[[Tensor], object]], Path]] = {
        EAGER: (lambda: model, weights),
        COMPILED: (lambda: torch.compile(model), weights),
        **{name: (lambda file=file: load_exported(file, trust=True).model, file) for name, file in files.items()},
    }

    def build(name: str, _: None) -> Call:
        call = ways[name][0]()
        return torch.no_grad()(lambda: call(image))

    given = Benchmark("export", "", {}, FORWARD, EAGER, names=list(ways), inputs=lambda: None, build=build)
    settings = Settings(device=torch.device("cpu"), rounds=ROUNDS, budget=BUDGET)
    # For C++ on the CPU, too, torch.compile warns of CUDA's tools on a machine without a GPU.
    with logging_only(logging.ERROR, "torch.utils.cpp_extension"):
        outcomes = benchmark.measure(given, settings, tell=tell)
    found = []
    for name, outcome in outcomes.items():
        tell(f"{name}: memory")
        times = [1e3 * seconds for seconds in outcome.seconds]
        kind = {EAGER: "eager", COMPILED: "compile"}.get(name, "file")
        peak = None if outcome.why_not else _footprint(kind, ways[name][1], image)
        median = statistics.median(times) if times else None
        found.append(Measured(name, median, min(times, default=None), max(times, default=None), peak, outcome.why_not))
    return found


def _footprint(kind: str, file: Path, image: Tensor) -> int | None:
    """Peak memory, bytes, of a process that loads ``file`` and runs it once."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    shape = "x".join(str(n) for n in image.shape)
    threads = str(torch.get_num_threads())
    # -P: or the folder of the script, with our own modules, would come before all others.
    command = [sys.executable, "-P", str(FOOTPRINT), kind, str(file), shape, threads]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    words = done.stdout.split()
    return int(words[-1]) if done.returncode == 0 and words else None
