"""Paired, interleaved timing: contestants take turns, round after round, in one process.

Whatever else the machine does then falls on all of them alike, and the ratio of two contestants' times in one round is
a measurement of its own.
"""

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from attnconv.bench.contest import Call, CannotRunError, Contestant, Settings
from attnconv.bench.peak import fits_memory, peak_bytes

Clock = Callable[[], float]
Tell = Callable[[str], None]

TURN_SECONDS = 0.02  # shorter calls are repeated within a turn, for the clock's sake
WARM_UP_CALLS = 5
WARM_UP_SECONDS = 10.0
LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Outcome:
    """What one contestant did: seconds of a call in each round, or why there are none."""

    name: str
    seconds: tuple[float, ...] = ()
    peak_bytes: int | None = None
    why_not: str | None = None


def clock_of(device: torch.device) -> Clock:
    """Seconds, read when the device has done all that was asked of it."""
    if device.type != "cuda":
        return time.perf_counter

    def read() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return read


def hold(
    contestants: Sequence[Contestant], settings: Settings, *, clock: Clock | None = None, tell: Tell = lambda _: None
) -> list[Outcome]:
    """Build and warm up each contestant, let those that can run take turns, and return an outcome for each."""
    clock = clock or clock_of(settings.device)
    calls: dict[str, Call] = {}
    peaks: dict[str, int] = {}
    warm: dict[str, float] = {}
    why_not: dict[str, str] = {}
    for contestant in contestants:
        tell(f"{contestant.name}: warm-up")
        with _reason(why_not, contestant.name, settings.device):
            if settings.deadline is not None and clock() > settings.deadline:
                raise CannotRunError("not measured: the time was up")
            fits_memory(contestant, settings.device)
            call = contestant.build()
            warm[contestant.name], peaks[contestant.name] = warm_up(call, clock, settings.device)
            calls[contestant.name] = call
    turns = {name: _calls_a_turn(warm[name]) for name in calls}
    one_round = sum(warm[name] * turns[name] for name in calls)
    rounds = min(settings.rounds, max(LEAST_ROUNDS, int(settings.budget / one_round))) if one_round else settings.rounds
    seconds, failed = take_turns(calls, turns, rounds=rounds, clock=clock, device=settings.device, tell=tell)
    why_not.update(failed)
    return [
        Outcome(c.name, why_not=why_not[c.name])
        if c.name in why_not
        else Outcome(c.name, tuple(seconds[c.name]), peaks[c.name])
        for c in contestants
    ]


def warm_up(call: Call, clock: Clock, device: torch.device) -> tuple[float, int]:
    """Call until it gets no faster: seconds of the fastest call, and the bytes that a call holds at most."""
    times = [_seconds(call, clock)]  # the first may compile
    peak = peak_bytes(call, device)
    while len(times) < WARM_UP_CALLS and sum(times) < WARM_UP_SECONDS:
        times.append(_seconds(call, clock))
        if times[-1] > 0.9 * min(times[:-1]):
            break
    return min(times), peak


def take_turns(
    calls: Mapping[str, Call],
    turns: Mapping[str, int],
    *,
    rounds: int,
    clock: Clock,
    device: torch.device,
    tell: Tell = lambda _: None,
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of a call of each in each round, and the reasons of those that failed on the way.

    Round r begins with contestant r, so that none always follows the same one. ``turns`` says how many calls a turn
    has.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    why_not: dict[str, str] = {}
    with _without_garbage_collection():
        for i in range(rounds):
            tell(f"round {i + 1} of {rounds}")
            first = i % max(1, len(calls))
            for name in (*list(calls)[first:], *list(calls)[:first]):
                if name not in why_not:
                    with _reason(why_not, name, device):
                        seconds[name].append(_seconds(calls[name], clock, turns[name]))
    return seconds, why_not


def _seconds(call: Call, clock: Clock, calls: int = 1) -> float:
    before = clock()
    for _ in range(calls):
        call()
    return (clock() - before) / calls


def _calls_a_turn(seconds: float) -> int:
    return max(1, min(1000, round(TURN_SECONDS / seconds))) if seconds > 0 else 1


@contextlib.contextmanager
def _reason(why_not: dict[str, str], name: str, device: torch.device) -> Iterator[None]:
    """Note why the block failed, in one sentence, and go on: others can still run."""
    try:
        yield
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no message"]
        text = " ".join(lines[0].split())[:300]
        why_not[name] = text if isinstance(error, CannotRunError) else f"{type(error).__name__}: {text}"
        if device.type == "cuda":
            torch.cuda.empty_cache()


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
