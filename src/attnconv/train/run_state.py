"""Where a run stands: all that a checkpoint saves and a resumed run starts from."""

import time
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from attnconv import checks
from attnconv.train.checkpoint import load_weights, save_checkpoint
from attnconv.train.config import RunConfig
from attnconv.train.divergence import largest_value, require_finite
from attnconv.train.run_folder import Found, RunFolder
from attnconv.train.train_sums import TrainSums

if TYPE_CHECKING:
    from lightning_fabric.plugins import Precision


class RunState:
    """Model, optimiser, and the count of what is done. It changes, and may be saved, between optimiser steps only.

    Args:
        precision: Fabric's, which owns the loss scaler of fp16.
        batches: batches an epoch.
        folder: where checkpoints go.
        meta: plain values that they carry for whoever rebuilds the network.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        precision: "Precision",
        *,
        config: RunConfig,
        batches: int,
        folder: RunFolder,
        meta: dict[str, Any],
    ) -> None:
        self.model, self.optimizer, self.precision = model, optimizer, precision
        self.config, self.batches, self.folder, self.meta = config, batches, folder, meta
        self.last = folder.last  # the file that messages name as the last good checkpoint
        self.last_is_good = False
        self.epoch = 0  # whole epochs done
        self.step_in_epoch = 0  # batches done of the next one
        self.sums = TrainSums()  # of these batches
        self.history: list[dict[str, Any]] = []  # the rows of metrics.csv
        self.best: dict[str, Any] | None = None  # top1 and epoch of the best row
        self.skipped: set[str] = set()  # undecodable files
        self.threads = torch.get_num_threads()  # when the run began: sums depend on it in their last bits
        self._began = time.perf_counter()

    @property
    def step(self) -> int:
        """Steps done, of the whole run."""
        return self.epoch * self.batches + self.step_in_epoch

    @property
    def lr(self) -> float:
        """Learning rate of the last step."""
        return self.optimizer.param_groups[0]["lr"]

    @property
    def seconds(self) -> float:
        """Of the whole run, the time before it was resumed included."""
        return time.perf_counter() - self._began

    def epoch_done(self, row: dict[str, Any]) -> bool:
        """Close an epoch with its row of metrics.csv; whether it is the best so far."""
        self.history.append(row)
        self.epoch, self.step_in_epoch, self.sums = self.epoch + 1, 0, TrainSums()
        if self.best is not None and row["val_top1"] <= self.best["top1"]:
            return False
        self.best = {"top1": row["val_top1"], "epoch": row["epoch"]}
        return True

    def save(self, *, best: bool = False) -> None:
        """Write last.pt, whose old contents previous.pt keeps, and best.pt too if ``best``.

        Raises:
            InputError: a loss or a weight is not finite, or a file cannot be written; the files are as they were.
        """
        self.sums.flush(self.last)
        largest = largest_value(self.model)
        require_finite("the largest weight", largest, step=self.step, lr=self.lr, checkpoint=self.last)
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.state_dict(),
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "batches_per_epoch": self.batches,
            "sums": self.sums.to_dict(),
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

    def restore(self, found: Found) -> None:
        """Stand where the checkpoint was saved; InputError if it is of other images or weights."""
        checkpoint = found.checkpoint
        assert checkpoint is not None
        if (then := checkpoint["batches_per_epoch"]) != self.batches:
            raise checks.InputError(
                f"{found.path} was saved in a run of {then} batches an epoch, and now there are {self.batches}: "
                "the training images have changed"
            )
        load_weights(self.model, checkpoint, found.path)
        try:
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            self.precision.load_state_dict(checkpoint["scaler"])
            self.sums = TrainSums(**checkpoint["sums"])
            self.skipped = set(checkpoint["skipped"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise checks.InputError(f"{found.path} is damaged: {type(error).__name__}: {error}") from error
        self.epoch, self.step_in_epoch = checkpoint["epoch"], checkpoint["step_in_epoch"]
        self.history, self.best = checkpoint["history"], checkpoint["best"]
        self.threads = checkpoint["threads"]
        self._began = time.perf_counter() - checkpoint["seconds"]
        self.last_is_good = found.path == self.last
