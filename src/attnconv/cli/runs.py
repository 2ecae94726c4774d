"""attnconv runs: the runs in a folder, once or as they go on."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from attnconv.cli.output import duration, print_json, print_table, say, table
from attnconv.shown import shown

if TYPE_CHECKING:
    from attnconv.train.run_list import RunEntry, RunList

PAUSE = 2.0  # seconds between two looks
HEADER = ("run", "model", "data", "state", "epoch", "best top-1 %", "last top-1 %", "time", "changed", "remark")


def runs(
    folder: Path = Path("runs"),
    *,
    watch: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """List the runs in a folder, and below it: where they stand, and how good they are.

    Running means that a process of this machine trains into the folder; a stopped run goes on with `attnconv train
    --resume`. Time is that of the whole run once it is finished, and that of training before.

    Parameters
    ----------
    folder:
        Where to look.
    watch:
        Draw the table anew every two seconds, until Ctrl-C; where there is no terminal, a line whenever a run changes.
    json:
        Print one JSON list; with --watch one JSON object a line whenever a run changes.
    """
    import sys

    from attnconv.train.run_list import RunList

    found = RunList(folder)
    if watch:
        try:
            if sys.stdout.isatty() and not json:
                draw(found)
            else:
                report_changes(found, json)
        except KeyboardInterrupt:  # how one stops watching: no failure
            return
    entries = found.read()
    if json:
        print_json([as_json(entry) for entry in entries])
    elif entries:
        print_table(*cells(entries))
    else:
        say(f"no runs in {folder}")


def draw(found: "RunList") -> None:
    """The table, anew whenever it is time, until Ctrl-C."""
    from rich.live import Live

    with Live(auto_refresh=False) as live:
        while True:
            live.update(table(*cells(found.read())), refresh=True)
            time.sleep(PAUSE)


def report_changes(found: "RunList", json: bool) -> None:
    """A line for each run, and another one whenever it has changed, until Ctrl-C."""
    import json as encoder

    known: dict[str, str] = {}
    while True:
        now = {entry.name: encoder.dumps(as_json(entry)) if json else line(entry) for entry in found.read()}
        for name in known.keys() - now.keys():
            text = encoder.dumps({"name": name, "state": "gone"}) if json else f"{clock()} {shown(name)}: gone"
            print(text, flush=True)
        for name, text in now.items():
            if known.get(name) != text:
                print(text if json else f"{clock()} {shown(text)}", flush=True)
        known = now
        time.sleep(PAUSE)


def cells(entries: Sequence["RunEntry"]) -> tuple[Sequence[str], list[list[str]]]:
    """Header and rows of the table; the last column only if there is something to remark."""
    rows = [
        [
            entry.name,
            entry.model or "",
            Path(entry.data).name if entry.data else "",
            entry.state,
            epochs(entry),
            percent(entry.best_top1),
            percent(entry.last_top1),
            "" if entry.seconds is None else duration(entry.seconds),
            "" if entry.changed is None else f"{duration(time.time() - entry.changed)} ago",
            entry.problem or entry.remark or "",
        ]
        for entry in entries
    ]
    width = len(HEADER) - (not any(entry.problem or entry.remark for entry in entries))
    return HEADER[:width], [row[:width] for row in rows]


def line(entry: "RunEntry") -> str:
    parts = [entry.state]
    if entry.epochs is not None:
        parts.append(f"epoch {epochs(entry)}")
    if entry.last_top1 is not None:
        parts.append(f"top-1 {percent(entry.last_top1)}%, best {percent(entry.best_top1)}%")
    if entry.problem:
        parts.append(entry.problem)
    if entry.remark:
        parts.append(entry.remark)
    return f"{entry.name}: {', '.join(parts)}"


def as_json(entry: "RunEntry") -> dict[str, Any]:
    changed = None if entry.changed is None else datetime.fromtimestamp(entry.changed, UTC).isoformat("T", "seconds")
    return {
        "run": str(entry.path),
        "name": entry.name,
        "state": entry.state,
        "model": entry.model,
        "data": entry.data,
        "epochs_done": entry.epochs_done,
        "epochs": entry.epochs,
        "best_top1": entry.best_top1,
        "last_top1": entry.last_top1,
        "seconds": entry.seconds,
        "changed": changed,
        "problem": entry.problem,
        "remark": entry.remark,
    }


def epochs(entry: "RunEntry") -> str:
    return "" if entry.epochs is None else f"{entry.epochs_done or 0}/{entry.epochs}"


def percent(score: float | None) -> str:
    return "" if score is None else f"{score:.2f}"


def clock() -> str:
    return time.strftime("%H:%M:%S")
