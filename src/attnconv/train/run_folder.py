"""The folder of a run: its files, its lock and its contents; and the list of all runs below a folder.

Loads torch only to read a checkpoint, so `attnconv runs` does not. The list writes nothing and does not disturb runs: a
run replaces its files atomically, and a run that starts while the list tries its lock waits for that instant.
"""

import csv
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from attnconv import checks, files
from attnconv.files import forget_halves, is_locked
from attnconv.inactive import remark
from attnconv.train.config import RunConfig, yaml_text, yaml_value

# A row of metrics.csv. epoch and step count from 1; lr is that of the last step; accuracies are in percent; seconds
# and images_per_second are those of training, without validation. val_miou comes last if each pixel has a label.
METRICS = (
    *("epoch", "step", "lr", "train_loss", "train_top1", "val_loss", "val_top1", "val_top5"),
    *("images_per_second", "seconds"),
)
MAY_DIFFER = ("device", "workers", "skip_bad_images", "checkpoint_steps", "devices", "nodes", "track")  # after a resume


def changes(stored: RunConfig, config: RunConfig) -> list[str]:
    """Return the differences of ``config``, in words, except MAY_DIFFER."""
    then, now = stored.to_dict(), config.to_dict()
    return [
        f"{name} was {then[name]!r} and is now {now[name]!r}"
        for name in now
        if name not in MAY_DIFFER and then[name] != now[name]
    ]


class RunFolder:
    """The files of one run. The constructor reads and writes nothing."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.csv"
        self.last = self.path / "last.pt"
        self.previous = self.path / "previous.pt"  # what last.pt was before; none once the run is done
        self.best = self.path / "best.pt"
        self.result = self.path / "result.json"

    def holds_run(self) -> bool:
        return self.config.exists() or self.last.exists()

    def holds_checkpoint(self) -> bool:
        return any(path.exists() for path in (self.last, self.previous, self.best))

    def require_free(self) -> None:
        """Raise InputError if a run, or a file, is there already."""
        if self.path.exists() and not self.path.is_dir():
            raise checks.InputError(f"{self.path} is a file; --out must name a folder, or one to be made")
        if self.holds_run():
            raise checks.InputError(
                f"{self.path} already holds a run: give --resume to go on with it, or another --out"
            )

    def reopen(self, config: RunConfig) -> tuple[Path | None, str | None]:
        """Return the last checkpoint of the run in this folder, or, with a note, the newest that can be read.

        Returns:
            Its path, None before the first one; the note or None.
        Raises:
            InputError: there is no run here, it has another configuration, or its files cannot be read.
        """
        from attnconv.train.checkpoint import load_checkpoint

        if not self.holds_run():
            raise checks.InputError(f"{self.path} holds no run to resume: leave --resume out to start one there")
        found: dict[Path, dict[str, Any]] = {}
        problem = None
        for path in (self.last, self.previous, self.best) if self.holds_checkpoint() else ():
            try:
                found[path] = load_checkpoint(path)
            except checks.InputError as error:
                problem = problem or error
            if self.last in found:
                break
        if not found and problem is not None:
            raise problem
        path = max(found, key=lambda path: (found[path]["epoch"], found[path]["step_in_epoch"]), default=None)
        stored = found[path]["config"] if path else files.parsed(self.config, yaml_value)
        if differences := changes(RunConfig.from_dict(stored, source=str(path or self.config)), config):
            raise checks.InputError(f"{self.path} holds a run of another configuration: {'; '.join(differences)}")
        if path is None or path == self.last:
            return path, None
        where = f"epoch {found[path]['epoch'] + 1}, batch {found[path]['step_in_epoch'] + 1}"
        return path, f"{problem}; the run goes on from {path.name}, at {where}"

    def finished(self, config: RunConfig) -> dict[str, Any] | None:
        """Return the result of a finished run, None for an unfinished one; errors as `reopen`'s."""
        self.reopen(config)
        return files.parsed(self.result, checks.from_json) if self.result.exists() else None

    def begin(self, config: RunConfig, history: list[dict[str, Any]]) -> None:
        """Write config.yaml, and metrics.csv cut back to ``history``; remove temporary files of a killed process."""
        forget_halves((self.config, self.metrics, self.last, self.previous, self.best, self.result))
        files.write(self.config, yaml_text(config.to_dict(), sort_keys=False))
        self.write_metrics(history)

    def forget_empty_run(self) -> None:
        """Undo ``begin``, and remove the folder if it is empty, if no checkpoint has been saved."""
        if self.holds_checkpoint():
            return
        self.config.unlink(missing_ok=True)
        self.metrics.unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Write all rows, so that the file never ends in half a row and is never ahead of last.pt."""
        files.write(self.metrics, files.csv_text(history, METRICS))

    def finish(self, result: dict[str, Any]) -> None:
        """Write result.json, and remove the checkpoint before the last."""
        files.write(self.result, json.dumps(result, indent=2) + "\n")
        self.previous.unlink(missing_ok=True)


OWN_FOLDERS = {"tensorboard", "wandb", "profile"}  # of a run; wandb's has files named config.yaml, too


@dataclass(frozen=True)
class RunEntry:
    """One run. A fact that its files do not hold is None.

    Args:
        name: path below the folder that was searched.
        state: running, if a process of this machine trains into it; finished; stopped, if ``--resume`` would go on
            with it; damaged, if a file cannot be read, which ``problem`` names.
        epochs_done: whole epochs.
        best_top1, last_top1: percent.
        seconds: of a finished run, else of training in the epochs done.
        changed: Unix time of the last change.
        remark: a warning about a finished run whose attention does nothing.
    """

    path: Path
    name: str
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
    """Return the runs below ``folder`` at any depth, running ones first, by name; hidden folders are skipped.

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
    """Yield the folders with a config.yaml at and below ``folder``, links followed; append errors to ``problems``."""
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
    """Return the entry of a run, None if it has gone in the meantime."""
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
        except (ValueError, LookupError, TypeError, AttributeError, csv.Error, RecursionError):
            problem = f"{path.name} is damaged, or none of a run"
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


def _from_config(text: str) -> dict[str, Any]:
    values = yaml_value(text)  # plain values only
    facts = {name: values[name] for name in ("model", "data", "epochs")}
    if [type(value) for value in facts.values()] != [str, str, int]:
        raise TypeError
    return facts


def _from_metrics(text: str) -> dict[str, Any]:
    rows = list(csv.DictReader(text.splitlines()))
    if not rows and not text.startswith("epoch,"):
        raise ValueError
    scores = [float(row["val_top1"]) for row in rows]
    return {
        "epochs_done": int(rows[-1]["epoch"]) if rows else 0,
        "best_top1": max(scores, default=None),
        "last_top1": scores[-1] if rows else None,
        "seconds": sum(float(row["seconds"]) for row in rows),
    }


def _from_result(text: str) -> dict[str, Any]:
    values = checks.from_json(text)
    off = values.get("attention_off")  # of networks that have attention
    return {
        "epochs_done": int(values["epochs"]),
        "best_top1": float(values["best_top1"]),
        "last_top1": float(values["top1"]),
        "seconds": float(values["seconds"]),
        "remark": (off and remark(off["logits_moved"], off["predictions_changed"])) or None,
    }


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts seed2 before seed10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
