"""Peak memory of a call, measured by what is allocated and freed, and whether a call would fit at all."""

import os

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from attnconv.bench.contest import Call, CannotRunError, Contestant
from attnconv.files import free_memory

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler writes a line on stderr whenever it starts and stops

PART = 0.75  # of the free memory may be asked for: on a CPU the last byte costs the whole process


def peak_bytes(call: Call, device: torch.device) -> int:
    """The largest sum that was held at once while ``call`` ran, its result included, above what was held before."""
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


def fits_memory(contestant: Contestant, device: torch.device) -> None:
    """Raise CannotRunError if the contestant's probe, scaled up, holds more than may be asked for."""
    if contestant.probe is None or device.type == "cuda":  # which refuses what does not fit, and goes on
        return
    if (free := free_memory()) is None:
        return
    needed = peak_bytes(contestant.probe.build(), device) * contestant.probe.factor
    if needed > PART * free:
        raise CannotRunError(
            f"would hold about {needed / 1e9:.1f} GB ({contestant.probe.factor:g} x what it held "
            f"{contestant.probe.text}), more than {PART:.0%} of the {free / 1e9:.1f} GB free"
        )
