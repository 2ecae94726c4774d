"""The folder of a run: its file names, who may write to it, and what it holds.

Loads torch only where a checkpoint is read, so that `attnconv runs` need not.
"""

import contextlib
import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from attnconv import checks, files
from attnconv.files import forget_halves
from attnconv.train.config import RunConfig

# A row of metrics.csv. epoch and step count from 1; lr is that of the last step; accuracies are in percent; seconds
# are those of training, without validation, and images_per_second follows from them. Where each pixel has a label,
# val_miou comes last.
METRICS = (
    *("epoch", "step", "lr", "train_loss", "train_top1", "val_loss", "val_top1", "val_top5"),
    *("images_per_second", "seconds"),
)
# Where a run computes, what it does at a bad file, when it saves, and who is told.
MAY_DIFFER = ("device", "workers", "skip_bad_images", "checkpoint_steps", "devices", "nodes", "track")


@dataclass(frozen=True)
class Found:
    """A checkpoint to go on from: None before the first; ``note`` says so if it is not the one it should be."""

    checkpoint: dict[str, Any] | None
    path: Path
    note: str | None = None


def changes(stored: RunConfig, config: RunConfig) -> list[str]:
    """Return what differs in ``config``, in words, but for MAY_DIFFER."""
    then, now = stored.to_dict(), config.to_dict()
    return [
        f"{name} was {then[name]!r} and is now {now[name]!r}"
        for name in now
        if name not in MAY_DIFFER and then[name] != now[name]
    ]


class RunFolder:
    """The files of one run. Making it reads and writes nothing."""

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

    def require_free(self) -> None:
        """Raises InputError if a run, or a file, is there already."""
        if self.path.exists() and not self.path.is_dir():
            raise checks.InputError(f"{self.path} is a file; --out must name a folder, or one to be made")
        if self.holds_run():
            raise checks.InputError(
                f"{self.path} already holds a run: give --resume to go on with it, or another --out"
            )

    def reopen(self, config: RunConfig) -> Found:
        """The last checkpoint of the run in this folder; a damaged one gives way to the newest that can be read.

        Raises:
            InputError: there is no run here, it is one of another configuration, or its files cannot be read.
        """
        if not self.holds_run():
            raise checks.InputError(f"{self.path} holds no run to resume: leave --resume out to start one there")
        found = self._newest()
        if found.checkpoint is not None:
            stored = RunConfig.from_dict(found.checkpoint["config"], source=str(found.path))
        else:
            stored = RunConfig.from_dict(_read(self.config, yaml.safe_load, yaml.YAMLError), source=str(self.config))
        if differences := changes(stored, config):
            raise checks.InputError(f"{self.path} holds a run of another configuration: {'; '.join(differences)}")
        return found

    def _newest(self) -> Found:
        from attnconv.train.checkpoint import load_checkpoint

        others = [path for path in (self.previous, self.best) if path.exists()]
        if not self.last.exists() and not others:
            return Found(None, self.last)
        try:
            return Found(load_checkpoint(self.last), self.last)
        except checks.InputError as error:
            problem = error
        found = []
        for path in others:
            with contextlib.suppress(checks.InputError):
                found.append((load_checkpoint(path), path))
        if not found:
            raise problem
        checkpoint, path = max(found, key=lambda pair: (pair[0]["epoch"], pair[0]["step_in_epoch"]))
        where = f"epoch {checkpoint['epoch'] + 1}, batch {checkpoint['step_in_epoch'] + 1}"
        return Found(checkpoint, path, f"{problem}; the run goes on from {path.name}, at {where}")

    def finished(self, config: RunConfig) -> dict[str, Any] | None:
        """The result of a finished run, None of an unfinished one; InputError as `reopen`, or if it cannot be read."""
        self.reopen(config)
        return _read(self.result, checks.from_json, ValueError) if self.result.exists() else None

    def make(self) -> None:
        """Make the folder, if need be; InputError if that cannot be done."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise checks.InputError(f"cannot make the folder {self.path}: {error.strerror or error}") from error

    def begin(self, config: RunConfig, history: list[dict[str, Any]]) -> None:
        """Write config.yaml, and metrics.csv cut back to where the run stands; clear what a killed process left."""
        forget_halves((self.config, self.metrics, self.last, self.previous, self.best, self.result))
        files.write(self.config, yaml.safe_dump(config.to_dict(), sort_keys=False))
        self.write_metrics(history)

    def forget_empty_run(self) -> None:
        """Undo ``make`` and ``begin`` if no checkpoint has been saved, so that another run finds no trace."""
        if self.last.exists() or self.best.exists() or self.previous.exists():
            return
        self.config.unlink(missing_ok=True)
        self.metrics.unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Write one row an epoch: all of them each time, so that the file is never half a row, nor ahead of last.pt."""
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        names = [*METRICS, *(name for row in history[:1] for name in row if name not in METRICS)]
        writer.writerow(names)
        writer.writerows([row.get(name, "") for name in names] for row in history)
        files.write(self.metrics, table.getvalue())

    def finish(self, result: dict[str, Any]) -> None:
        """Write what the run has come to; no checkpoint but the last and the best is wanted any more."""
        files.write(self.result, json.dumps(result, indent=2) + "\n")
        self.previous.unlink(missing_ok=True)


def _read(path: Path, parse: Any, bad_syntax: type[Exception]) -> Any:
    try:
        return parse(files.read_text(path))
    except checks.InputError:
        raise
    except OSError as error:
        raise checks.InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (bad_syntax, UnicodeDecodeError) as error:
        raise checks.InputError(f"{path} is damaged: {' '.join(str(error).split())}") from error
