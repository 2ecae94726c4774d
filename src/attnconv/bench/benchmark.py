"""Benchmarks: candidates that compute the same thing, timed in turns on the same inputs, and the record of each.

Candidates take turns, round after round, in one process. Other work on the machine then affects all of them alike, and
the ratio of two candidates' times in one round is a measurement by itself. So is the floor, on a CPU: the rates of a
core are measured before and after each turn, and the higher ones count.
"""

import contextlib
import functools
import gc
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.benchmark import timer
from torch.utils.flop_counter import FlopCounterMode

from attnconv import checks, files
from attnconv.bench.machine import Call, call_seconds, peak_bytes, rates
from attnconv.bench.records import FORMAT, append
from attnconv.kernels.relative_attention import native

STEP = "training step"

TURN_SECONDS = 0.02  # at least, so that the clock is exact enough
LEAST_ROUNDS = 3
PART = 0.75  # of the free memory may be used: on a CPU, running out ends the whole process
LOGITS_HELD = 5 * 4  # bytes a logit, where all are held: five tensors of float32

Tell = Callable[[str], None]


class CannotRunError(Exception):
    """A candidate cannot take part; its record holds the message."""


@dataclass(frozen=True)
class Benchmark:
    """Candidates that compute the same thing, and the description of the case for their records.

    Args:
        study: relative_attention, bilinear_attention, layers, models, or data (of benchmarks/data_loader.py).
        case: a name such as S1.
        shape: names and sizes of the case.
        what: the timed pass: FORWARD, BOTH or STEP.
        baseline: the candidate that ratios are relative to.
        names: of the candidates.
        inputs: makes, once, the inputs of all candidates.
        build: takes a candidate's name and the inputs and returns the call; raises `CannotRunError` if there is none.
        flops: of one call of a candidate, 2 for each multiply-add of the mathematics, without recomputation.
        held: bytes that a candidate needs, roughly, if it may not fit into memory.
        size: side of the map in a sweep over sizes.
        exps: exponentials of the mathematics; None if other work remains.
        macs: the fewest multiply-adds of a CPU kernel of linear memory; with ``exps`` they give the floor there.
    """

    study: str
    case: str
    shape: Mapping[str, Any]
    what: str
    baseline: str
    names: Sequence[str]
    inputs: Callable[[], Any]
    build: Callable[[str, Any], Call]
    flops: Callable[[str], int | None] = lambda name: None
    held: Callable[[str], int] = lambda name: 0
    size: int | None = None
    exps: int | None = None
    macs: int | None = None


@dataclass(frozen=True)
class Settings:
    """Settings of all benchmarks of one command.

    Args:
        rounds: turns of each candidate; fewer, but at least three, once they have taken ``budget``.
        budget: seconds after which a benchmark begins no further round.
        names: candidates that take part, all if None.
        deadline: reading of torch's benchmark timer after which no candidate starts.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    rounds: int = 5
    seed: int = 0
    budget: float = 120.0
    names: tuple[str, ...] | None = None
    deadline: float | None = None


@dataclass(frozen=True)
class Outcome:
    """The result of one candidate: seconds of a call in each round, or why there are none.

    ``rates`` are those of `native.rates` in each round, empty where no floor follows from them.
    """

    seconds: tuple[float, ...] = ()
    rates: tuple[tuple[float, float], ...] = ()
    peak_bytes: int | None = None
    why_not: str | None = None


def run(
    benchmarks: Sequence[Benchmark],
    settings: Settings,
    provenance: Mapping[str, Any],
    *,
    file: Path | None = None,
    tell: Tell = lambda _: None,
) -> Iterator[list[dict[str, Any]]]:
    """Run the benchmarks, append the records of each to ``file`` and yield them; ``tell`` gets a line on each step."""
    for number, benchmark in enumerate(benchmarks, start=1):
        title = f"{number}/{len(benchmarks)} {benchmark.case} {benchmark.what}"
        tell(title)
        torch.manual_seed(settings.seed)
        outcomes = measure(benchmark, settings, tell=lambda text, title=title: tell(f"{title}: {text}"))
        shared = {**rates(settings.device, settings.dtype), **provenance}
        found = [_record(benchmark, name, outcome, settings, shared) for name, outcome in outcomes.items()]
        if file is not None:
            append(file, found)
        yield found


def measure(benchmark: Benchmark, settings: Settings, *, tell: Tell = lambda _: None) -> dict[str, Outcome]:
    """Build and warm up each candidate, let those that can run take turns, and return an outcome for each.

    Round r begins with candidate r, so that none always follows the same one. The time of a turn is the median of the
    calls of `call_seconds`.
    """
    calls: dict[str, Call] = {}
    peaks: dict[str, int] = {}
    seconds = {name: [] for name in benchmark.names if settings.names is None or name in settings.names}
    beside = {name: [] for name in seconds}
    with_rates = benchmark.macs is not None and settings.device.type == "cpu" and native.MISSING is None
    why_not: dict[str, str] = {}
    inputs = functools.cache(benchmark.inputs)
    for name in seconds:
        tell(f"{name}: warm-up")
        with _reason(why_not, name, settings.device):
            if settings.deadline is not None and timer() > settings.deadline:
                raise CannotRunError("not measured: the time was up")
            _fit_memory(benchmark.held(name), settings.device)
            call = benchmark.build(name, inputs())
            call()  # may compile
            peaks[name] = peak_bytes(call, settings.device)
            calls[name] = call
    gc.collect()
    names, begin = list(calls), timer()
    for i in range(settings.rounds):
        if i >= LEAST_ROUNDS and timer() - begin > settings.budget:
            break
        tell(f"round {i + 1} of {settings.rounds}")
        first = i % max(1, len(names))
        before = native.rates() if with_rates else None
        for name in (*names[first:], *names[:first]):
            if name not in why_not:
                with _reason(why_not, name, settings.device):
                    turn = call_seconds(calls[name], settings.device, at_least=TURN_SECONDS, clock=timer)
                    seconds[name].append(statistics.median(turn))
                if before is not None:
                    after = native.rates()
                    beside[name].append((max(before[0], after[0]), max(before[1], after[1])))
                    before = after
    return {
        name: Outcome(why_not=why_not[name])
        if name in why_not
        else Outcome(tuple(times), tuple(beside[name]), peaks[name])
        for name, times in seconds.items()
    }


@contextlib.contextmanager
def _reason(why_not: dict[str, str], name: str, device: torch.device) -> Iterator[None]:
    """Note an exception of the block as the candidate's reason, and go on with the others."""
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, CannotRunError) else f"{type(error).__name__}: "
        why_not[name] = kind + checks.first_line(error)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _fit_memory(needed: int, device: torch.device) -> None:
    """Raise CannotRunError if ``needed`` bytes do not fit into memory; CUDA itself refuses them."""
    free = files.free_memory()
    if device.type != "cuda" and free is not None and needed > PART * free:
        raise CannotRunError(
            f"needs about {needed / 1e9:.1f} GB, more than {PART:.0%} of the {free / 1e9:.1f} GB of free memory"
        )


def _record(
    benchmark: Benchmark, name: str, outcome: Outcome, settings: Settings, shared: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the record of a candidate; ``shared`` holds the machine's rates and the provenance."""
    flops = benchmark.flops(name)
    median = statistics.median(outcome.seconds) if outcome.seconds else None
    peak, floor, floors, fraction = shared["matmul_flops_per_s"], None, None, None
    on_cpu = benchmark.macs is not None and settings.device.type == "cpu"
    if on_cpu:
        floors = floor_seconds(benchmark, outcome.rates, threads=shared["machine"]["threads"])
        floor = statistics.median(floors) if floors else None
    elif flops is not None and benchmark.exps is not None:
        floor = flops / peak + benchmark.exps / shared["exps_per_s"]
    if flops is not None and median:
        fraction = flops / median / peak
    return {
        "format": FORMAT,
        "study": benchmark.study,
        "case": benchmark.case,
        "size": benchmark.size,
        "shape": dict(benchmark.shape),
        "pass": benchmark.what,
        "dtype": str(settings.dtype).removeprefix("torch."),
        "contestant": name,
        "baseline": benchmark.baseline,
        "seconds": list(outcome.seconds),
        "median_seconds": median,
        "peak_bytes": outcome.peak_bytes,
        "why_not": outcome.why_not,
        "flops": flops,
        "exps": benchmark.exps,
        "floor_seconds": floor,
        "peak_fraction": fraction,
        "macs": benchmark.macs,
        "rates": [list(pair) for pair in outcome.rates],
        "floors": floors,
        "floor_why_not": native.MISSING if on_cpu else None,
        "instruction_set": native.INSTRUCTION_SET if on_cpu else None,
        **shared,
    }


def floor_seconds(benchmark: Benchmark, rates: Sequence[tuple[float, float]], *, threads: int) -> list[float]:
    """Return the time of the multiply-adds and exponentials alone, at each pair of `native.rates`, on all threads."""
    assert benchmark.macs is not None
    return [(benchmark.macs / macs + (benchmark.exps or 0) / exps) / threads for macs, exps in rates]


def call_of(function: Callable[[], Tensor], like: Tensor, leaves: Sequence[Tensor]) -> Call:
    """Return forward alone, under no_grad, if there are no ``leaves``; else forward, and backward to them.

    ``like`` has the shape of the output.
    """
    if not leaves:
        return torch.no_grad()(function)
    upper = torch.ones_like(like)
    return lambda: torch.autograd.grad(function(), leaves, upper)


def counted_flops(call: Call) -> int:
    """Return the FLOPs, 2 a multiply-add, of a call, best made on the meta device in the plain form."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()
