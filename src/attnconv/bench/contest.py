"""What is measured: a contest of several ways to compute the same thing, on the same inputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

Call = Callable[[], object]

FORWARD, BOTH, STEP = "forward", "forward+backward", "training step"


class CannotRunError(Exception):
    """A contestant that does not take part; the message is the reason that is recorded."""


@dataclass(frozen=True)
class Probe:
    """The same contestant on a smaller problem, which tells beforehand what memory the real one would take."""

    build: Callable[[], Call]
    factor: float  # how many times more the real one holds at most
    text: str  # such as "on a 64 x 64 map"


@dataclass(frozen=True)
class Contestant:
    """One way of computing a contest's result.

    Args:
        build: makes all that a call needs and returns the call; raises `CannotRunError` if there is none.
        flops: of one call, 2 a multiply-add that the mathematics needs, recomputation left out; None if unknown.
        probe: given where a call might not fit into memory.
    """

    name: str
    build: Callable[[], Call]
    flops: int | None = None
    probe: Probe | None = None


@dataclass(frozen=True)
class Contest:
    """Contestants that take turns, and what the record of each says about the case.

    Args:
        study: relative_attention, bilinear_attention, layers or models.
        case: a name such as S1.
        shape: names and sizes of the case.
        what: the pass that is timed: FORWARD, BOTH or STEP.
        baseline: the contestant that the others are set against.
        enter: makes the inputs, once, and the contestants, which share them.
        size: side of the map in a sweep over sizes.
        exps: exponentials that the mathematics needs; None if they are not the rest of the work.
    """

    study: str
    case: str
    shape: Mapping[str, Any]
    what: str
    baseline: str
    enter: Callable[[], list[Contestant]]
    size: int | None = None
    exps: int | None = None


@dataclass(frozen=True)
class Settings:
    """What all contests of one command share.

    Args:
        rounds: turns of each contestant; fewer, but at least three, where they would take longer than ``budget``.
        backward: time forward and backward together, too.
        budget: seconds that the rounds of one contest may take.
        names: contestants that take part, all if None.
        deadline: reading of the clock after which no contestant is started any more.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    rounds: int = 5
    backward: bool = True
    seed: int = 0
    budget: float = 120.0
    names: tuple[str, ...] | None = None
    deadline: float | None = None

    @property
    def passes(self) -> tuple[str, ...]:
        return (FORWARD, BOTH) if self.backward else (FORWARD,)

    def takes_part(self, name: str) -> bool:
        return self.names is None or name in self.names
