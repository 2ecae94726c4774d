"""A run as TensorBoard's event files, in RUN/tensorboard.

They hold what metrics.csv holds: whoever goes on with a run writes them anew, so that no point is missing, double or
contradicted, whatever happened before.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnconv.train.config import RunConfig


class TensorBoard:
    """The columns of metrics.csv as scalars over epochs, and the configuration as hyper-parameters.

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
        # The writer's own add_hparams would start another run, in a folder below.
        for summary in hparams(hyper_parameters(config), {"val_top1": 0, "val_loss": 0}):
            self.writer._get_file_writer().add_summary(summary)

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
    """Every option, flat, in the types that TensorBoard takes."""
    values = config.to_dict()
    options = {f"model_options.{name}": value for name, value in values.pop("model_options").items()}
    return {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in (values | options).items()}
