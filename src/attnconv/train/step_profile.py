"""Profile of training steps: the time of the loader and of each operator. Results stay the same.

The first steps of a process warm up and are traced; later ones are timed, each until the device has done it, which
makes steps on a GPU a little slower.
"""

import contextlib
import os
import statistics
import time
from pathlib import Path
from typing import Any, Self

import torch
from torch.autograd import DeviceType

from attnconv.train.evaluate import TrainSums
from attnconv.train.processes import Ranks

ALONE, WARM_UP, TRACED = 2, 1, 3  # steps: without the profiler, of its warm-up, traced
OPERATORS = 10  # the slowest
NONE = ("ProfilerStep", "enumerate(DataLoader)")  # first words of events that are no operators


class StepProfile:
    """A context in which a run's steps are timed, and the first ones traced.

    Args:
        device: of the steps.
        folder: of the run; the trace is profile/trace.json.gz in it.
        ranks: the processes of the run, of which the first is traced.
    """

    def __init__(self, device: torch.device, folder: Path, ranks: Ranks) -> None:
        self.device, self.ranks = device, ranks
        self.trace = folder / "profile" / "trace.json.gz"
        self.operators: list[dict[str, Any]] = []
        self.seconds: list[float] = []  # of each timed step, including the wait for its batch
        self.waited = 0.0  # seconds of these
        self.images = 0
        self._steps, self._then, self._waited_then = 0, 0.0, 0.0
        self._tracer = None

    def __enter__(self) -> Self:
        if self.ranks.first:
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # no messages of the tracer
            kinds = [torch.profiler.ProfilerActivity.CPU]
            if self.device.type == "cuda":
                kinds.append(torch.profiler.ProfilerActivity.CUDA)
            plan = torch.profiler.schedule(wait=ALONE, warmup=WARM_UP, active=TRACED, repeat=1)
            self._tracer = torch.profiler.profile(activities=kinds, schedule=plan, on_trace_ready=self._keep)
            self._tracer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end_trace()

    def epoch_begins(self, sums: TrainSums) -> None:
        """Start the time of the next step, which begins with the wait for its batch."""
        self._then, self._waited_then = time.perf_counter(), sums.waited

    def step_done(self, sums: TrainSums, images: int) -> None:
        """Record a step on so many ``images`` of this process, which the device may not have finished."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        self._steps += 1
        if self._steps > ALONE + WARM_UP + TRACED:
            self.seconds.append(time.perf_counter() - self._then)
            self.waited += sums.waited - self._waited_then
            self.images += images
        elif self._tracer is not None:
            self._tracer.step()
            if self._steps == ALONE + WARM_UP + TRACED:
                self._end_trace()
        self.epoch_begins(sums)

    def summary(self) -> dict[str, Any]:
        """Return the profile of the first process, with the images of all; call it in all processes.

        Of the timed steps: their number, the median in milliseconds, percent of the time spent waiting for the loader,
        images per second (the three are None without such steps); and the slowest operators of the traced steps, with
        milliseconds, percent of all operators' time and calls per step.
        """
        total = sum(self.seconds)
        images = self.ranks.sum(torch.tensor(float(self.images), device=self.device)).item()
        return {
            "steps": len(self.seconds),
            "step_ms": 1000 * statistics.median(self.seconds) if total else None,
            "loader_share": 100 * self.waited / total if total else None,
            "images_per_second": images / total if total else None,
            "operators": self.operators,
            "trace": str(self.trace.relative_to(self.trace.parents[1])) if self.operators else None,
        }

    def _end_trace(self) -> None:
        tracer, self._tracer = self._tracer, None
        if tracer is not None:
            tracer.stop()

    def _keep(self, tracer: torch.profiler.profile) -> None:
        """Keep the trace and its operators; called by the tracer after its steps."""
        if self._steps < ALONE + WARM_UP + TRACED:
            return  # the run ended earlier
        on_device = self.device.type == "cuda"
        times = {}
        for event in tracer.key_averages():
            # A kernel is listed by itself and again under the operator that launched it.
            if event.device_type == DeviceType.CPU and not event.key.startswith(NONE):
                microseconds = event.self_device_time_total if on_device else event.self_cpu_time_total
                times[event.key] = (microseconds / 1000 / TRACED, event.count / TRACED)
        total = sum(milliseconds for milliseconds, _ in times.values()) or 1.0
        longest = sorted(times.items(), key=lambda item: -item[1][0])[:OPERATORS]
        with contextlib.suppress(OSError, RuntimeError):  # a full disk does not end a run here
            self.trace.parent.mkdir(exist_ok=True)
            tracer.export_chrome_trace(str(self.trace))
            self.operators = [
                {"name": name, "ms": milliseconds, "share": 100 * milliseconds / total, "calls": calls}
                for name, (milliseconds, calls) in longest
            ]
