"""attnconv runs: the runs in a folder."""

import dataclasses
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnconv.cli.output import duration, print_json, print_table, say

if TYPE_CHECKING:
    from attnconv.train.run_folder import RunEntry

HEADER = ("run", "model", "data", "state", "epoch", "best top-1 %", "last top-1 %", "time", "changed", "remark")


def runs(folder: Path = Path("runs"), *, json: bool = False) -> None:
    """List the runs in a folder, and below it: where they stand, and how good they are.

    Running means that a process of this machine trains into the folder; a stopped run goes on with `attnconv train
    --resume`. Time is that of the whole run once it is finished, and that of training before.

    Parameters
    ----------
    folder:
        Where to look.
    json:
        Print one JSON list.
    """
    from attnconv.train.run_folder import list_runs

    entries = list_runs(folder)
    if json:
        print_json([as_json(entry) for entry in entries])
    elif entries:
        print_table(*cells(entries))
    else:
        say(f"no runs in {folder}")


def cells(entries: Sequence["RunEntry"]) -> tuple[Sequence[str], list[list[str]]]:
    """Header and rows of the table; the last column only if there is something to remark."""
    rows = [
        [
            entry.name,
            entry.model or "",
            Path(entry.data).name if entry.data else "",
            entry.state,
            "" if entry.epochs is None else f"{entry.epochs_done or 0}/{entry.epochs}",
            percent(entry.best_top1),
            percent(entry.last_top1),
            "" if entry.seconds is None else duration(entry.seconds),
            "" if entry.changed is None else f"{duration(time.time() - entry.changed)} ago",
            entry.problem or entry.remark or "",
        ]
        for entry in entries
    ]
    width = len(HEADER) - (not any(row[-1] for row in rows))
    return HEADER[:width], [row[:width] for row in rows]


def as_json(entry: "RunEntry") -> dict[str, Any]:
    """The fields of RunEntry, its path as "run"."""
    changed = None if entry.changed is None else datetime.fromtimestamp(entry.changed, UTC).isoformat("T", "seconds")
    values = dataclasses.asdict(entry) | {"changed": changed}
    return {"run": str(values.pop("path")), **values}


def percent(score: float | None) -> str:
    return "" if score is None else f"{score:.2f}"
