"""What `make gpu` measures: three cases of relative attention, and a training step of a Wide-ResNet with attention.

Stops starting anything new once its time is up, and records what was not measured.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnconv.bench import models, relative_attention
from attnconv.bench.contest import BOTH, Settings
from attnconv.bench.models import Case
from attnconv.bench.run import run
from attnconv.bench.timing import Tell

OP_CASES = tuple(case for case in relative_attention.NAMED if case.name.startswith("G"))
OPS_PART = 0.5  # of the time, at most, for attention alone
CONTESTANTS = ("auto", "triton", "eager", "blocked", "sdpa", "flex")
NETWORK = Case("aa_wide_resnet28_10", 128, 32, 100)


def measure(
    settings: Settings,
    origin: Mapping[str, Any],
    *,
    seconds: float,
    file: Path | None = None,
    op_cases: Sequence[relative_attention.Case] = OP_CASES,
    network: Case = NETWORK,
    compiled: Callable[[nn.Module], Callable[[Tensor], Tensor]] = torch.compile,
    tell: Tell = lambda _: None,
) -> Iterator[list[dict[str, Any]]]:
    """Yield the records of each contest: forward and backward of the cases, then the training steps."""
    start = time.perf_counter()
    alone = replace(settings, names=CONTESTANTS, deadline=start + OPS_PART * seconds)
    both = [contest for contest in relative_attention.contests(op_cases, alone) if contest.what == BOTH]
    yield from run(both, alone, origin, file=file, tell=tell)
    whole = replace(settings, deadline=start + seconds)
    step = models.contest(network, whole, channels_last=True, compiled=compiled)
    yield from run([step], whole, origin, file=file, tell=tell)
