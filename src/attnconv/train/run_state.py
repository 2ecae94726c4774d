"""Where a run stands: all that a checkpoint saves and a resumed run starts from."""

import math
import time
from pathlib import Path
from typing import Any

import torch

from attnconv import checks
from attnconv.train.checkpoint import save_checkpoint
from attnconv.train.config import RunConfig
from attnconv.train.divergence import Diverged, largest_value, require_finite
from attnconv.train.engine import Engine
from attnconv.train.gathered import gathered, scatter
from attnconv.train.run_folder import RunFolder
from attnconv.train.same_images import changes_of_images
from attnconv.train.train_sums import TrainSums

MOST_IN_A_ROW = 10  # steps whose loss is not finite, until a run that leaves them out gives up


class RunState:
    """The engine's weights, and the count of what is done. It changes, and may be saved, between optimiser steps only.

    Args:
        engine: network, optimiser, average of the weights, loss scaler.
        batches: batches an epoch.
        folder: where checkpoints go.
        meta: plain values that they carry for whoever rebuilds the network.
    """

    def __init__(
        self, engine: Engine, *, config: RunConfig, batches: int, folder: RunFolder, meta: dict[str, Any]
    ) -> None:
        self.engine, self.model = engine, engine.bare
        self.config, self.batches, self.folder, self.meta = config, batches, folder, meta
        self.last = folder.last  # the file that messages name as the last good checkpoint
        self.last_is_good = False
        self.epoch = 0  # whole epochs done
        self.step_in_epoch = 0  # batches done of the next one
        self.sums = TrainSums()  # of these batches
        self.history: list[dict[str, Any]] = []  # the rows of metrics.csv
        self.best: dict[str, Any] | None = None  # top1, epoch and, of pixels, miou of the best row
        self.skipped: set[str] = set()  # undecodable files
        self.lr_factor = 1.0  # of the schedule; halved with each return to a checkpoint
        self.left_out: list[int] = []  # steps, from 0, whose loss was not finite
        self.processes = engine.ranks.world  # when the run began, as the threads
        self.threads = torch.get_num_threads()  # when the run began: sums depend on it in their last bits
        self.changes: list[str] = []  # of the images, since the checkpoint that the run goes on from
        self._began = time.perf_counter()

    @property
    def step(self) -> int:
        """Steps done, of the whole run."""
        return self.epoch * self.batches + self.step_in_epoch

    @property
    def lr(self) -> float:
        """Learning rate of the last step."""
        return self.engine.optimizer.param_groups[0]["lr"]

    @property
    def seconds(self) -> float:
        """Of the whole run, the time before it was resumed included."""
        return time.perf_counter() - self._began

    def epoch_done(self, row: dict[str, Any]) -> bool:
        """Close an epoch with its row of metrics.csv; whether it is the best so far, by miou if there is one."""
        self.history.append(row)
        self.epoch, self.step_in_epoch, self.sums = self.epoch + 1, 0, TrainSums()
        score = "miou" if "val_miou" in row else "top1"
        if self.best is not None and row[f"val_{score}"] <= self.best[score]:
            return False
        self.best = {"top1": row["val_top1"], "epoch": row["epoch"], score: row[f"val_{score}"]}
        return True

    def leave_out(self, step: int) -> None:
        """Note a step whose loss or gradients were not finite; Diverged if it is one of too many in a row."""
        self.left_out.append(step)
        if self.left_out[-MOST_IN_A_ROW:] == list(range(step - MOST_IN_A_ROW + 1, step + 1)):
            raise Diverged(
                f"the loss or a gradient was not finite in {MOST_IN_A_ROW} steps in a row, up to step {step + 1} "
                f"(lr {self.lr:.3g}): give a smaller lr",
                step + 1,
            )

    def save(self, *, best: bool = False) -> None:
        """Write last.pt, whose old contents previous.pt keeps, and best.pt too if ``best``; in the first process.

        Raises:
            InputError: a loss or a weight is not finite, or a file cannot be written; the files are as they were.
        """
        ranks = self.engine.ranks
        self.sums.flush(self.last, ranks.sum)
        largest = largest_value(self.model)
        spoiled = ranks.sum(torch.tensor(float(not math.isfinite(largest)))).item()
        largest = math.nan if spoiled and math.isfinite(largest) else largest
        require_finite("the largest weight", largest, step=self.step, lr=self.lr, checkpoint=self.last)
        if self.config.skip_bad_images:
            self.skipped = ranks.union(self.skipped)
        weights = gathered(self.engine)
        ranks.on_first(lambda: self._write(weights, best))

    def _write(self, weights: dict[str, Any], best: bool) -> None:
        state = {
            **weights,
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "batches_per_epoch": self.batches,
            "sums": self.sums.to_dict(),
            "lr_factor": self.lr_factor,
            "left_out": self.left_out,
            "processes": self.processes,
            "best": self.best,
            "history": self.history,
            "skipped": sorted(self.skipped),
            "seconds": self.seconds,
            "threads": self.threads,
            "config": self.config.to_dict(),
            "meta": self.meta,
        }
        if best:  # first: killed between the two, the run goes on from the older last.pt, and makes it anew
            save_checkpoint(self.folder.best, state)
        # A damaged last.pt must not take the place of the good one before it.
        save_checkpoint(self.last, state, previous=self.folder.previous if self.last_is_good else None)
        self.last_is_good = True

    def restore(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Stand where ``checkpoint``, read from ``path``, was saved; InputError if it is of other images or weights."""
        self.changes = changes_of_images(checkpoint["meta"].get("images", {}), self.meta.get("images", {}), path)
        if (then := checkpoint["batches_per_epoch"]) != self.batches:
            raise checks.InputError(
                f"{path} was saved in a run of {then} batches an epoch, and now there are {self.batches}: "
                "the training images have changed"
            )
        try:
            scatter(self.engine, checkpoint, path)
            self.sums = TrainSums(**checkpoint["sums"])
            self.skipped, self.left_out = set(checkpoint["skipped"]), list(checkpoint["left_out"])
        except (AttributeError, KeyError, TypeError) as error:
            raise checks.InputError(f"{path} is damaged: {type(error).__name__}: {error}") from error
        self.epoch, self.step_in_epoch = checkpoint["epoch"], checkpoint["step_in_epoch"]
        self.history, self.best = list(checkpoint["history"]), checkpoint["best"]
        self.lr_factor = checkpoint["lr_factor"]
        self.threads, self.processes = checkpoint["threads"], checkpoint["processes"]
        self._began = time.perf_counter() - checkpoint["seconds"]
        self.last_is_good = path == self.last
