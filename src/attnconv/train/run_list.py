"""The runs below a folder and where each stands, read from their files.

Loads no torch, writes nothing, and leaves runs alone: a run replaces its files as a whole, so that none is met half
written, and the lock of an unfinished one is tried for an instant, which a run that starts just then waits for. Quick
with a thousand runs: a checkpoint's last bytes are all that is read of it, and `RunList` reads only what has changed.
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
from attnconv.train.run_folder import RunFolder

OWN_FOLDERS = {"tensorboard", "wandb", "profile"}  # of a run; in the second one are files named config.yaml, too

Number = (int, float)
Stamp = tuple[int, int] | None  # of a file: when it was changed, in nanoseconds, and its size; None without it
YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C ten times as quick


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


class RunList:
    """The runs below ``folder``, at any depth; hidden folders are left out.

    Raises:
        InputError: there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            what = "is a file" if self.folder.exists() else "does not exist"
            raise checks.InputError(f"{self.folder} {what}; give the folder that holds the runs")
        self._known: dict[Path, tuple[tuple[Stamp, ...], dict[str, Any]]] = {}

    def read(self) -> list[RunEntry]:
        """The runs as they are now, the running ones first, each part by name."""
        problems: list[OSError] = []
        entries = [entry for path in _run_folders(self.folder, problems) if (entry := self._entry(path)) is not None]
        for error in problems:
            path = Path(error.filename)
            reason = f"cannot be read: {error.strerror or error}"
            entries.append(RunEntry(path, self._name(path), "damaged", problem=reason))
        return sorted(entries, key=lambda entry: (entry.state != "running", _natural(entry.name)))

    def _name(self, path: Path) -> str:
        name = path.relative_to(self.folder).as_posix()
        return name if name != "." else self.folder.resolve().name

    def _entry(self, path: Path) -> RunEntry | None:
        """The run in ``path``; None if it has gone in the meantime."""
        folder = RunFolder(path)
        stamps = tuple(_stamp(file) for file in (folder.config, folder.metrics, folder.last, folder.result))
        if stamps[0] is None:
            self._known.pop(path, None)
            return None
        if path not in self._known or self._known[path][0] != stamps:
            self._known[path] = stamps, _facts(folder, stamps)
        facts = self._known[path][1]
        if stamps[-1] is not None and facts["problem"] is None:
            state = "finished"
        elif is_locked(path):
            state = "running"
        else:
            state = "damaged" if facts["problem"] else "stopped"
        return RunEntry(path, self._name(path), state, **facts)


def _run_folders(folder: Path, problems: list[OSError]) -> Iterator[Path]:
    """The folders with a config.yaml at and below ``folder``, links followed; ``problems`` receives what failed."""
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


def _stamp(path: Path) -> Stamp:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


def _facts(folder: RunFolder, stamps: tuple[Stamp, ...]) -> dict[str, Any]:
    """What RunEntry says of a run but where it is and its state."""
    facts: dict[str, Any] = {"problem": None, "changed": max(stamp[0] for stamp in stamps if stamp) / 1e9}
    parts = [(folder.config, _from_config), (folder.metrics, _from_metrics)]
    if stamps[-1] is not None:
        parts.append((folder.result, _from_result))
    for path, read in parts:
        try:
            facts |= read(files.read_text(path, at_most=files.TABLE))
        except FileNotFoundError:  # before the first epoch, or gone since
            pass
        except OSError as error:
            facts["problem"] = f"{path.name} cannot be read: {error.strerror or error}"
        except checks.InputError as error:
            facts["problem"] = str(error)
        except (ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError, csv.Error, RecursionError):
            facts["problem"] = f"{path.name} is damaged, or none of a run"
    if facts["problem"] is None and stamps[2] is not None and not _whole(folder.last):
        others = (path.name for path in (folder.previous, folder.best) if path.exists() and _whole(path))
        other = next(others, None)
        facts["problem"] = f"last.pt is cut short; {f'--resume takes {other}' if other else 'nothing to resume from'}"
    return facts


def _whole(path: Path) -> bool:
    try:
        return ends_whole(path)
    except (OSError, checks.InputError):
        return False


def _from_config(text: str) -> dict[str, Any]:
    values = yaml.load(text, YamlLoader)  # both of them make plain values only
    return {name: _typed(values[name], kind) for name, kind in (("model", str), ("data", str), ("epochs", int))}


def _from_metrics(text: str) -> dict[str, Any]:
    """Of metrics.csv, a row an epoch."""
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
