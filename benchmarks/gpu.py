"""Relative attention and a training step on an NVIDIA GPU: the benchmark of `make gpu`.

PYTHONPATH=src python benchmarks/gpu.py    (under 8 minutes; torch, triton and numpy suffice; adds to results/gpu.jsonl)

It measures three cases of relative attention, forward and backward, and a training step of a Wide-ResNet with
attention. It starts nothing new once the time is up, and records what it did not measure. It prints a short table.
Exit code 1 without a CUDA device.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.benchmark import timer

from attnconv.bench import models, ops
from attnconv.bench.benchmark import Settings, run
from attnconv.bench.cases import BOTH, RELATIVE
from attnconv.bench.records import provenance
from attnconv.report.bench import HEADER, tables
from attnconv.train.device import ROOT, commit

SECONDS = 300.0  # after which nothing new starts; a running benchmark takes at most two minutes more
ROUNDS = 15
BUDGET = 8.0  # seconds of rounds for each benchmark
OPS_PART = 0.5  # largest share of the time for attention alone
CANDIDATES = ("auto", "triton", "eager", "blocked", "sdpa", "flex")
NETWORK = "aa_wide_resnet28_10", 128, 32, 100  # name, batch, image size, classes
RESULTS = Path(__file__).with_name("results")
SHOWN = 6  # columns of `attnconv bench`


def main(seconds: float = SECONDS, out: Path = RESULTS) -> int:
    """Measure on the first CUDA device, in bfloat16, for about so many seconds; ``out`` is the folder of gpu.jsonl."""
    if not torch.cuda.is_available():
        print("attnconv: error: no CUDA device here, so nothing was measured", file=sys.stderr)
        return 1
    found = measure(torch.device("cuda", 0), torch.bfloat16, seconds=seconds, file=out / "gpu.jsonl")
    print(text(found))
    return 0


def measure(device: torch.device, dtype: torch.dtype, *, seconds: float, file: Path) -> list[Mapping[str, Any]]:
    """Return the records of relative attention, forward and backward, then of the network's training step."""
    settings, start = Settings(device, dtype, rounds=ROUNDS, budget=BUDGET), timer()
    alone = replace(settings, names=CANDIDATES, deadline=start + OPS_PART * seconds)
    whole = replace(settings, deadline=start + seconds)
    attention = [ops.relative_benchmark(case, BOTH, alone) for case in RELATIVE if case.name.startswith("G")]
    step = models.model_benchmark(models.Case(*NETWORK), whole, channels_last=True, compiled=True)
    made, found = provenance(device, settings.seed, commit=commit(ROOT)), []
    for benchmarks, limits in ((attention, alone), ([step], whole)):
        for records in run(benchmarks, limits, made, file=file, tell=_tell):
            found += records
    return found


def text(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the tables as plain text, with a reason for each candidate that did not run."""
    found = tables(records)
    parts = [found[0].machine] if found else []
    for table in found:
        rows = [row[:SHOWN] for row in (HEADER, *table.rows)]
        lines = [f"{name:24}" + "".join(f"{cell:>18}" for cell in cells) for name, *cells in rows]
        lines += [f"{name}: {reason}" for name, reason in table.absent]
        parts.append("\n".join([table.title, *lines]))
    return "\n\n".join(parts)


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
