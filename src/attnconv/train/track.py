"""Experiment tracking by TensorBoard or Weights & Biases. A failing service is a line on stderr; the run goes on."""

import os
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from attnconv import checks, files
from attnconv.train.config import RunConfig

PATIENCE = 30  # seconds for a server to answer at the start, and to receive the rest at the end


def require_service(config: RunConfig) -> None:
    """Raise InputError, which names the extra to install, if the package for ``config.track`` is missing."""
    if config.track != "none":
        checks.require(config.track, extra="track")


class Tracker:
    """A context that keeps the service of ``config.track`` up to date with a run; it does nothing for "none".

    Args:
        folder: of the run.
        fresh: True for a new run, False for one that is resumed.
        say: prints a line.
        active: True in the first process.
    """

    def __init__(
        self, config: RunConfig, folder: Path, *, fresh: bool, say: Callable[[str], None], active: bool = True
    ) -> None:
        self.config, self.folder, self.fresh, self.say = config, folder, fresh, say
        self.wanted = active and config.track != "none"
        self.service: TensorBoard | WandB | None = None
        self.written = 0  # rows

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._close(kind is not None)

    def follow(self, history: Sequence[dict[str, Any]]) -> None:
        """Send new rows of ``history``, which holds all rows of metrics.csv. The first call opens the service."""
        if not self.wanted:
            return
        try:
            if self.service is not None and len(history) < self.written:  # the run has gone back to a checkpoint
                self._close(failed=False)
            if self.service is None:
                self.service, self.written = self._open(), 0
            self.service.write(history[self.written :])
            self.written = len(history)
        except Exception as error:
            what = "cannot start" if self.service is None else "has stopped"
            self.say(f"tracking by {self.config.track} {what}: {checks.first_line(error)}; the run goes on without it")
            self.wanted = False
            self._close(failed=True)

    def _open(self) -> "TensorBoard | WandB":
        if self.config.track == "tensorboard":
            return TensorBoard(self.config, self.folder)
        service = WandB(self.config, self.folder, fresh=self.fresh)
        self.fresh = False
        self.say(service.note)
        return service

    def _close(self, failed: bool) -> None:
        service, self.service = self.service, None
        if service is not None:
            try:
                service.close(failed)
            except Exception as error:
                if self.wanted:  # else a failure has been reported
                    self.say(f"tracking by {self.config.track} failed when it was closed: {checks.first_line(error)}")


class TensorBoard:
    """Event files in RUN/tensorboard: the columns of metrics.csv over epochs, and the configuration.

    A resumed run writes them anew, so that no point is missing or double.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, config: RunConfig, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        folder = folder / "tensorboard"
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self.writer = SummaryWriter(str(folder))
        # The writer's add_hparams would start another run in a folder below.
        for summary in hparams(hyper_parameters(config), {"val_top1": 0, "val_loss": 0}):
            self.writer.file_writer.add_summary(summary)  # pyright: ignore[reportOptionalMemberAccess]

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        now = time.time()
        for number, row in enumerate(rows, 1):
            when = now - sum(later["seconds"] for later in rows[number:])  # about: validation is not counted
            for name, value in row.items():
                if name != "epoch":
                    self.writer.add_scalar(name, value, row["epoch"], walltime=when)
        self.writer.flush()

    def close(self, failed: bool) -> None:
        self.writer.close()


def hyper_parameters(config: RunConfig) -> dict[str, bool | int | float | str]:
    """Return every option, flat, in the types that TensorBoard takes."""
    values = config.to_dict()
    options = {f"model_options.{name}": value for name, value in values.pop("model_options").items()}
    return {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in (values | options).items()}


class WandB:
    """A run in Weights & Biases: sent to the server if there is an API key, else kept in RUN/wandb for `wandb sync`.

    WANDB_MODE, WANDB_PROJECT and wandb's other variables apply. Nothing asks for a key. The folder keeps the run's id.
    A resumed run sends the rows that the server lacks; without a server it writes its record anew under the same id.

    Raises:
        Exception: of several kinds, if the service cannot start.
    """

    def __init__(self, config: RunConfig, folder: Path, *, fresh: bool) -> None:
        import wandb

        session = wandb.setup(wandb.Settings(silent=True))
        mode, why_offline = None, ""
        if session.settings.mode in ("online", "run", "shared"):
            try:
                if not wandb.login(prompt=False):
                    mode, why_offline = "offline", "no API key is set"
            except Exception as error:  # a wrong key, or no network
                mode, why_offline = "offline", checks.first_line(error)
        identity = identity_of(folder / "wandb", fresh=fresh)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "attnconv"),
            name=os.environ.get("WANDB_NAME", folder.resolve().name),
            dir=str(folder),
            id=identity,
            resume="allow",
            mode=mode,
            config=config.to_dict(),
            allow_val_change=True,  # options may differ after a resume
            reinit="create_new",  # do not take over another run that this program has open
            settings=wandb.Settings(
                silent=True, console="off", init_timeout=float(PATIENCE), finish_timeout=float(PATIENCE)
            ),
        )
        if self.run.disabled or not self.run.offline:
            self.note = f"Weights & Biases: {'disabled' if self.run.disabled else self.run.url}"
        else:
            why = f" ({why_offline})" if why_offline else ""
            self.note = f"Weights & Biases: offline{why}; `wandb sync {Path(self.run.dir).parent}` sends it"

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            if row["epoch"] >= self.run.step:  # the server has the ones before
                self.run.log({name: value for name, value in row.items() if name != "epoch"}, step=row["epoch"])

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))
        if self.run.offline and not self.run.disabled:  # this record takes the place of those before it
            mine = Path(self.run.dir).parent  # RUN/wandb/offline-run-TIME-ID
            for old in mine.parent.glob(f"offline-run-*-{self.run.id}"):
                if old.name != mine.name:
                    shutil.rmtree(old, ignore_errors=True)


def identity_of(folder: Path, *, fresh: bool) -> str:
    """Return the run's id, kept in ``folder``; a new one if the run is ``fresh``."""
    path = folder / "run-id.txt"
    if path.exists() and not fresh:
        return files.read_text(path).strip()
    folder.mkdir(exist_ok=True)
    identity = secrets.token_hex(4)
    files.write(path, identity + "\n")
    return identity
