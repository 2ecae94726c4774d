"""A run in Weights & Biases: sent to its server where there is a key for it, else kept in RUN/wandb for `wandb sync`.

WANDB_MODE, WANDB_PROJECT and the service's other variables are heeded. Nothing ever asks for a key. The run's id is
kept in the folder: a run that goes on sends what the server lacks; without a server its record is written anew, under
the same id.
"""

import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnconv import checks, files
from attnconv.train.config import RunConfig

# Seconds that a server has to answer at the start, and to receive what is left at the end: a run does not wait longer.
PATIENCE = 30


class WandB:
    """The columns of metrics.csv over epochs, and the configuration.

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
            allow_val_change=True,  # of options that may differ after a resume
            reinit="create_new",  # rather than taking over a run that this program has open
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
    """The id of the run, kept in ``folder``; another one if the run is ``fresh``."""
    path = folder / "run-id.txt"
    if path.exists() and not fresh:
        return files.read_text(path).strip()
    folder.mkdir(exist_ok=True)
    identity = secrets.token_hex(4)
    path.write_text(identity + "\n", encoding="utf-8")
    return identity
