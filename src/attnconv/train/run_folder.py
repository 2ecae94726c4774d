"""The folder of a run: its file names, who may write to it, and what it holds."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import yaml

from attnconv import checks
from attnconv.train.atomic import replacing
from attnconv.train.checkpoint import load_checkpoint
from attnconv.train.config import RunConfig

# A row of metrics.csv. epoch and step count from 1; lr is that of the last step; accuracies are in percent; seconds
# are those of training, without validation, and images_per_second follows from them.
METRICS = (
    *("epoch", "step", "lr", "train_loss", "train_top1", "val_loss", "val_top1", "val_top5"),
    *("images_per_second", "seconds"),
)
MAY_DIFFER = ("device", "workers", "skip_bad_images")  # where a run computes, and what it does at a bad file


class RunFolder:
    """The files of one run. Making it reads and writes nothing."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.csv"
        self.last = self.path / "last.pt"
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

    def reopen(self, config: RunConfig) -> dict[str, Any] | None:
        """The last checkpoint of the run in this folder, or None if it was stopped before the first.

        Raises:
            InputError: there is no run here, it is one of another configuration, or its files cannot be read.
        """
        if not self.holds_run():
            raise checks.InputError(f"{self.path} holds no run to resume: leave --resume out to start one there")
        if self.last.exists():
            checkpoint = load_checkpoint(self.last)
            stored = RunConfig.from_dict(checkpoint["config"], source=str(self.last))
        else:
            checkpoint = None
            stored = RunConfig.from_dict(_read(self.config, yaml.safe_load, yaml.YAMLError), source=str(self.config))
        then, now = stored.to_dict(), config.to_dict()
        differences = [
            f"{name} was {then[name]!r} and is now {now[name]!r}"
            for name in now
            if then[name] != now[name] and name not in MAY_DIFFER
        ]
        if differences:
            raise checks.InputError(f"{self.path} holds a run of another configuration: {'; '.join(differences)}")
        return checkpoint

    def stored_result(self) -> dict[str, Any] | None:
        """The result of a finished run, None of an unfinished one; InputError if it cannot be read."""
        return _read(self.result, json.loads, ValueError) if self.result.exists() else None

    def write_config(self, config: RunConfig) -> None:
        """Make the folder, if need be, and write config.yaml; InputError if that cannot be done."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise checks.InputError(f"cannot make the folder {self.path}: {error.strerror or error}") from error
        _write(self.config, yaml.safe_dump(config.to_dict(), sort_keys=False))

    def forget_empty_run(self) -> None:
        """Undo ``write_config`` if no checkpoint has been saved: with other options the folder can be used again."""
        if self.last.exists() or self.best.exists():
            return
        self.config.unlink(missing_ok=True)
        self.metrics.unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Write one row an epoch: all of them each time, so that the file is never half a row, nor ahead of last.pt."""
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(METRICS)
        writer.writerows([row[name] for name in METRICS] for row in history)
        _write(self.metrics, table.getvalue())

    def write_result(self, result: dict[str, Any]) -> None:
        _write(self.result, json.dumps(result, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


def _read(path: Path, parse: Any, bad_syntax: type[Exception]) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise checks.InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (bad_syntax, UnicodeDecodeError) as error:
        raise checks.InputError(f"{path} is damaged: {' '.join(str(error).split())}") from error
