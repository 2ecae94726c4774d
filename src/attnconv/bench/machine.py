"""The machine: its name and versions, and how fast it multiplies matrices and takes exponentials, measured.

A floor for the time of a case follows from the two rates: its FLOPs over the first plus its exponentials over the
second.
"""

import platform
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from attnconv import __version__
from attnconv.bench.timing import clock_of

SECONDS = 0.3  # of measuring, each rate

_best: dict[tuple[torch.device, torch.dtype], dict[str, float]] = {}


def machine(device: torch.device) -> dict[str, Any]:
    """Name, threads and versions, as a record says them."""
    return {
        "device": device.type,
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "python": platform.python_version(),
        "attnconv": __version__,
    }


def cpu_name() -> str:
    """The processor's model, or at least its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def rates(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """FLOP/s of the fastest large product in ``dtype``, and exponentials/s in float32.

    Measured at each call, and the best that this process has seen: other work makes a machine slower, never faster.
    """
    cuda = device.type == "cuda"
    n = 8192 if cuda else 1536
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    out = torch.empty_like(a)
    x = torch.rand(2**26 if cuda else 2**20, device=device)  # on a CPU in its cache, as the logits of a block are
    y = torch.empty_like(x)
    clock = clock_of(device)
    found = {
        "matmul_flops_per_s": 2 * n**3 / _fastest(lambda: torch.mm(a, b, out=out), clock),
        "exps_per_s": x.numel() / _fastest(lambda: torch.exp(x, out=y), clock),
    }
    before = _best.get((device, dtype), found)
    _best[device, dtype] = {name: max(rate, before[name]) for name, rate in found.items()}
    return _best[device, dtype]


def _fastest(call: Callable[[], object], clock: Callable[[], float]) -> float:
    call()
    best, end = float("inf"), time.perf_counter() + SECONDS
    while best == float("inf") or time.perf_counter() < end:
        before = clock()
        call()
        best = min(best, clock() - before)
    return best


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
