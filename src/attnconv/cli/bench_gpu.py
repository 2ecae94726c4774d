"""python3 -m attnconv.cli.bench_gpu: the benchmark of `make gpu`, with torch, triton and numpy alone.

Adds to benchmarks/results/gpu.jsonl and prints a short table. Exit code 1 without a CUDA device.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnconv.report.bench import HEADER, tables

SECONDS = 300.0  # after which nothing new is started; what runs then takes at most two minutes more
ROUNDS = 15
BUDGET = 8.0  # seconds of rounds, each contest
SHOWN = (0, 1, 2, 3, 4, 5)  # of the columns of `attnconv bench`


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure on the first CUDA device, in bfloat16."""
    parser = argparse.ArgumentParser(prog="python3 -m attnconv.cli.bench_gpu", description="The benchmark of make gpu.")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="start nothing new after so long (%(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results"), help="folder of gpu.jsonl (%(default)s)"
    )
    given = parser.parse_args(arguments)
    import torch

    if not torch.cuda.is_available():
        print("attnconv: error: no CUDA device here, so nothing was measured", file=sys.stderr)
        return 1
    from attnconv.bench import gpu
    from attnconv.bench.contest import Settings
    from attnconv.bench.records import origin
    from attnconv.train.provenance import ROOT, commit

    settings = Settings(torch.device("cuda", 0), torch.bfloat16, rounds=ROUNDS, budget=BUDGET)
    made = origin(settings, commit=commit(ROOT))
    found: list[Mapping[str, Any]] = []
    for records in gpu.measure(settings, made, seconds=given.seconds, file=given.out / "gpu.jsonl", tell=_tell):
        found += records
    print(text(found))
    return 0


def text(records: Sequence[Mapping[str, Any]]) -> str:
    """The tables in plain text, and whoever did not run with the reason."""
    found = tables(records)
    parts = [found[0].machine] if found else []
    for table in found:
        rows = [tuple(row[i] for i in SHOWN) for row in (HEADER, *table.rows)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(SHOWN))]
        lines = [
            "  ".join(
                cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        lines += [f"{name}: {reason}" for name, reason in table.absent]
        parts.append("\n".join([table.title, *lines]))
    return "\n\n".join(parts)


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
