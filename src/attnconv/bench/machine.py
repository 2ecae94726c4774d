"""The machine: its name, versions and fastest rates, and the seconds and bytes of a call on it.

The two rates give a floor for the time of a benchmark: its FLOPs over the first plus its exponentials over the second.
"""

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from attnconv import __version__, checks

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler writes a line on stderr whenever it starts and stops

Call = Callable[[], object]

SECONDS = 0.3  # of measuring, each rate

_best: dict[tuple[torch.device, torch.dtype], dict[str, float]] = {}


def machine(device: torch.device) -> dict[str, Any]:
    """Return name, threads and versions, for a record."""
    return {
        "device": device.type,
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "triton": checks.installed_version("triton"),
        "python": platform.python_version(),
        "attnconv": __version__,
    }


def cpu_name() -> str:
    """Return the processor's model, or its architecture if that is unknown."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def call_seconds(
    call: Call, device: torch.device, *, at_least: float, clock: Callable[[], float] | None = None
) -> list[float]:
    """Repeat ``call`` for ``at_least`` seconds, after a warm-up, and return the seconds of each measurement.

    On CUDA by Triton's do_bench, with the L2 cache emptied before each call; elsewhere, and without Triton, by torch's
    Timer, on all of torch's threads and without garbage collection.

    Args:
        clock: of the Timer; its own if not given.
    """
    if device.type == "cuda" and checks.installed_version("triton"):
        from triton.testing import do_bench

        times: Any = do_bench(call, warmup=0, rep=round(1e3 * at_least), return_mode="all")
        return [milliseconds / 1e3 for milliseconds in times]
    # Here, since it looks for compilers, loudly, and `attnconv doctor` asks this file for the processor's name alone.
    from torch.utils.benchmark import Timer, timer

    measured = Timer("call()", globals={"call": call}, timer=clock or timer, num_threads=torch.get_num_threads())
    return measured.blocked_autorange(min_run_time=at_least).times


def peak_bytes(call: Call, device: torch.device) -> int:
    """Return the peak memory of ``call``, its result included, above the memory held before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        kept = call()
    results = seen.profiler.kineto_results if seen.profiler else None
    assert results is not None, "the profiler has run"
    held = peak = 0
    for event in results.events():
        if event.name() == "[memory]" and event.device_type() == DeviceType.CPU:
            held += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]  which its stub lacks
            peak = max(peak, held)
    del kept
    return peak


def rates(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Return FLOP/s of the fastest large product in ``dtype``, and exponentials/s in float32.

    Each call measures again and returns the best so far: other work makes a machine slower, never faster.
    """
    cuda = device.type == "cuda"
    n = 8192 if cuda else 1536
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    out = torch.empty_like(a)
    x = torch.rand(2**26 if cuda else 2**20, device=device)  # on a CPU in its cache, as the logits of a block are
    y = torch.empty_like(x)
    product = min(call_seconds(lambda: torch.mm(a, b, out=out), device, at_least=SECONDS))
    exps = min(call_seconds(lambda: torch.exp(x, out=y), device, at_least=SECONDS))
    found = {"matmul_flops_per_s": 2 * n**3 / product, "exps_per_s": x.numel() / exps}
    before = _best.get((device, dtype), found)
    _best[device, dtype] = {name: max(rate, before[name]) for name, rate in found.items()}
    return _best[device, dtype]
