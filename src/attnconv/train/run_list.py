"""The runs below a folder and where each stands, read from their files.

Loads no torch, writes nothing, and leaves runs alone: a run replaces its files as a whole, so that none is met half
written, and the lock of an unfinished one is tried for an instant, which a run that starts just then waits for. Quick
with a thousand runs: a checkpoint's last bytes are all that is read of it.
"""

import csv
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from attnconv import checks, files
from attnconv.files import ends_whole, is_locked
from attnconv.inactive import remark
from attnconv.train.config import yaml_value
from attnconv.train.run_folder import RunFolder

OWN_FOLDERS = {"tensorboard", "wandb", "profile"}  # of a run; in the second one are files named config.yaml, too

Number = (int, float)


@dataclass(frozen=True)
class RunEntry:
    """One run. Anything that its files do not say is None.

    ``state``: running, if a process of this machine trains into it; finished; stopped, if ``--resume`` would go on with
    it; damaged, if a file cannot be read, which ``problem`` names. ``epochs_done`` of ``epochs`` are whole ones.
    ``best_top1`` and ``last_top1`` are in percent; ``seconds`` are those of a finished run, or those of training in
    the epochs done; ``changed`` is the time (Unix) of the last change. ``remark``: of a finished run, that
    its attention does nothing.
    """

    path: Path
    name: str  # below the folder that was searched
    state: Literal["running", "finished", "stopped", "damaged"]
    model: str | None = None
    data: str | None = None
    epochs_done: int | None = None
    epochs: int | None = None
    best_top1: float | None = None
    last_top1: float | None = None
    seconds: float | None = None
    changed: float | None = None
    problem: str | None = None
    remark: str | None = None


def list_runs(folder: Path) -> list[RunEntry]:
    """Return the runs below ``folder``, at any depth: the running ones first, each part by name; no hidden folders.

    Raises:
        InputError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise checks.InputError(f"{folder} {what}; give the folder that holds the runs")

    def name_of(path: Path) -> str:
        name = path.relative_to(folder).as_posix()
        return name if name != "." else folder.resolve().name

    problems: list[OSError] = []
    entries = [_entry(RunFolder(path), name_of(path)) for path in _run_folders(folder, problems)]
    for error in problems:
        path = Path(error.filename)
        reason = f"cannot be read: {error.strerror or error}"
        entries.append(RunEntry(path, name_of(path), "damaged", problem=reason))
    found = [entry for entry in entries if entry is not None]
    return sorted(found, key=lambda entry: (entry.state != "running", _natural(entry.name)))


def _run_folders(folder: Path, problems: list[OSError]) -> Iterator[Path]:
    """Yield the folders with a config.yaml at and below ``folder``, links followed; ``problems`` gets what failed."""
    seen = set()
    for here, folders, names in os.walk(folder, onerror=problems.append, followlinks=True):
        try:
            stat = os.stat(here)
        except OSError:  # gone
            continue
        if (place := (stat.st_dev, stat.st_ino)) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(place)
        is_run = "config.yaml" in names
        folders[:] = [name for name in folders if not name.startswith(".") and not (is_run and name in OWN_FOLDERS)]
        if is_run:
            yield Path(here)


def _entry(run: RunFolder, name: str) -> RunEntry | None:
    """Return what the files of a run say; None if it has gone in the meantime."""
    changed = {file: _changed(file) for file in (run.config, run.metrics, run.last, run.result)}
    if changed[run.config] is None:
        return None
    facts: dict[str, Any] = {"changed": max(time for time in changed.values() if time is not None)}
    problem = None
    for path, read in ((run.config, _from_config), (run.metrics, _from_metrics), (run.result, _from_result)):
        try:
            facts |= read(files.read_text(path, at_most=files.TABLE))
        except FileNotFoundError:  # not written yet, or gone since
            pass
        except OSError as error:
            problem = f"{path.name} cannot be read: {error.strerror or error}"
        except checks.InputError as error:
            problem = str(error)
        except (ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError, csv.Error, RecursionError):
            problem = f"{path.name} is damaged, or none of a run"
    if problem is None and changed[run.last] is not None and not _whole(run.last):
        others = (path.name for path in (run.previous, run.best) if path.exists() and _whole(path))
        other = next(others, None)
        problem = f"last.pt is cut short; {f'--resume takes {other}' if other else 'nothing to resume from'}"
    if changed[run.result] is not None and problem is None:
        state = "finished"
    elif is_locked(run.path):
        state = "running"
    else:
        state = "damaged" if problem else "stopped"
    return RunEntry(run.path, name, state, problem=problem, **facts)


def _changed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _whole(path: Path) -> bool:
    try:
        return ends_whole(path)
    except (OSError, checks.InputError):
        return False


def _from_config(text: str) -> dict[str, Any]:
    values = yaml_value(text)  # plain values only
    return {name: _typed(values[name], kind) for name, kind in (("model", str), ("data", str), ("epochs", int))}


def _from_metrics(text: str) -> dict[str, Any]:
    """Read metrics.csv, which has a row an epoch."""
    header, *rows = csv.reader(text.splitlines())
    epoch, top1, seconds = (header.index(name) for name in ("epoch", "val_top1", "seconds"))
    if not rows:
        return {"epochs_done": 0, "seconds": 0.0}
    scores = [float(row[top1]) for row in rows]
    return {
        "epochs_done": int(rows[-1][epoch]),
        "best_top1": max(scores),
        "last_top1": scores[-1],
        "seconds": sum(float(row[seconds]) for row in rows),
    }


def _from_result(text: str) -> dict[str, Any]:
    values = checks.from_json(text)
    off = values.get("attention_off")  # of networks that have attention
    said = off and remark(_typed(off["logits_moved"], Number), _typed(off["predictions_changed"], Number))
    return {
        "epochs_done": _typed(values["epochs"], int),
        "best_top1": _typed(values["best_top1"], Number),
        "last_top1": _typed(values["top1"], Number),
        "seconds": _typed(values["seconds"], Number),
        "remark": said or None,
    }


def _typed(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError
    return value


def _natural(name: str) -> list[tuple[int, str]]:
    """A key by which seed2 comes before seed10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
