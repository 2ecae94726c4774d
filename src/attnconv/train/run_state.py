"""The state of a run: all that a checkpoint saves, a resumed run starts from, and metrics.csv and result.json say."""

import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from attnconv import checks
from attnconv.train.checkpoint import load_checkpoint, save_checkpoint
from attnconv.train.config import RunConfig
from attnconv.train.device import Engine, device_name, provenance
from attnconv.train.evaluate import Diverged, Loader, Scores, TrainSums, largest_value, require_finite
from attnconv.train.run_folder import RunFolder

SAVED = ("epoch", "step_in_epoch", "lr_factor", "left_out", "processes", "threads", "best", "history")  # as they are
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
        self.taken_over: set[str] = set()  # weights that came with init_from
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
    def params(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def lr(self) -> float:
        """Learning rate of the last step."""
        return self.engine.optimizer.param_groups[0]["lr"]

    @property
    def seconds(self) -> float:
        """Seconds of the whole run, the time before it was resumed included."""
        return time.perf_counter() - self._began

    def epoch_done(self, row: dict[str, Any]) -> bool:
        """Close an epoch with its row of metrics.csv; True if it is the best so far, by miou if there is one."""
        self.history.append(row)
        self.epoch, self.step_in_epoch, self.sums = self.epoch + 1, 0, TrainSums()
        score = "miou" if "val_miou" in row else "top1"
        if self.best is not None and row[f"val_{score}"] <= self.best[score]:
            return False
        self.best = {"top1": row["val_top1"], "epoch": row["epoch"], score: row[f"val_{score}"]}
        return True

    def differences(self) -> list[str]:
        """Return why the run may not end in the bits in which it would have ended where it began."""
        found = list(self.changes)
        for name, then, now in (
            ("CPU threads", self.threads, torch.get_num_threads()),
            ("processes", self.processes, self.engine.ranks.world),
        ):
            if then != now:
                found.append(
                    f"the run began with {then} {name} and goes on with {now}: it will not end in the very same bits"
                )
        return found

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
        ranks.on_first(lambda: self._write(best))

    def _write(self, best: bool) -> None:
        state = {
            **self.engine.state_dict(),
            **{name: getattr(self, name) for name in SAVED},
            "batches_per_epoch": self.batches,
            "sums": self.sums.to_dict(),
            "skipped": sorted(self.skipped),
            "taken_over": sorted(self.taken_over),
            "seconds": self.seconds,
            "config": self.config.to_dict(),
            "meta": self.meta,
        }
        if best:  # first: killed between the two, the run goes on from the older last.pt, and makes it anew
            save_checkpoint(self.folder.best, state)
        # A damaged last.pt must not take the place of the good one before it.
        save_checkpoint(self.last, state, previous=self.folder.previous if self.last_is_good else None)
        self.last_is_good = True

    def restore_newest(self) -> str | None:
        """Restore the newest checkpoint that can be read, if there is one; return what is to be said about it."""
        found = []

        def look() -> tuple[str, bool, str | None]:
            found.append(self.folder.reopen(self.config))
            return found[0].path.name, found[0].checkpoint is not None, found[0].note

        name, there, note = self.engine.ranks.on_first(look)
        if there:
            path = self.folder.path / name
            self.restore(found[0].checkpoint if found else load_checkpoint(path), path)
        return note

    def restore(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Stand where ``checkpoint``, read from ``path``, was saved; InputError if it is of other images or weights."""
        self.changes = changes_of_images(checkpoint["meta"].get("images", {}), self.meta.get("images", {}), path)
        if (then := checkpoint["batches_per_epoch"]) != self.batches:
            raise checks.InputError(
                f"{path} was saved in a run of {then} batches an epoch, and now there are {self.batches}: "
                "the training images have changed"
            )
        try:
            self.engine.load_state_dict(checkpoint, path)
            self.sums = TrainSums(**checkpoint["sums"])
            self.skipped, self.taken_over = set(checkpoint["skipped"]), set(checkpoint["taken_over"])
        except (AttributeError, KeyError, TypeError) as error:
            raise checks.InputError(f"{path} is damaged: {type(error).__name__}: {error}") from error
        for name in SAVED:
            setattr(self, name, checkpoint[name])
        self._began = time.perf_counter() - checkpoint["seconds"]
        self.last_is_good = path == self.last

    def facts(self, train_loader: Loader, val_loader: Loader) -> dict[str, str]:
        """Return the lines of a run's header."""
        config, meta, world = self.config, self.meta, self.engine.ranks.world
        images = []
        for kind, loader in (("training", train_loader), ("validation", val_loader)):
            count = meta.get("images", {}).get(kind, {}).get("count", loader.num_samples)
            images.append(f"{count:,} {kind}")
        size = f" of {'x'.join(map(str, meta['image_size']))} pixels" if "image_size" in meta else ""
        classes = f"{len(meta['classes'])} classes, " if "classes" in meta else ""
        done = f", {self.step:,} done" if self.step else ""
        threads = torch.get_num_threads()
        return {
            "network": f"{config.model}, {self.params:,} parameters",
            "data": f"{config.data}, {classes}{' and '.join(images)} images{size}",
            "steps": f"{config.epochs * self.batches:,}, {self.batches:,} an epoch{done}",
            "device": f"{device_name(self.engine.fabric.device)}, {config.precision}, "
            + (f"{world} processes" if world > 1 else f"{threads} thread{'s' * (threads > 1)}"),
            "out": str(self.folder.path),
        }

    def metrics_row(self, scores: Scores, observed: Mapping[str, float]) -> dict[str, Any]:
        """Return the row of metrics.csv for the epoch that has just ended; InputError if the loss is not finite."""
        require_finite("the validation loss", scores.loss, step=self.step, lr=self.lr, checkpoint=self.last)
        return {
            "epoch": self.epoch + 1,
            "step": self.step,
            "lr": self.lr,
            "train_loss": self.sums.mean_loss,
            "train_top1": self.sums.top1,
            "val_loss": scores.loss,
            "val_top1": scores.top1,
            "val_top5": scores.top5,
            "images_per_second": self.sums.images_per_second,
            "seconds": self.sums.seconds,
            **({} if scores.miou is None else {"val_miou": scores.miou}),
            **observed,
        }

    def summary(self) -> dict[str, Any]:
        """Return what result.json holds; top1, top5, miou and loss are the last epoch's, on the validation images."""
        assert self.best is not None
        last = self.history[-1]
        return {
            "model": self.config.model,
            "data": self.config.data,
            "epochs": self.config.epochs,
            "seed": self.config.seed,
            "top1": last["val_top1"],
            "top5": last["val_top5"],
            "loss": last["val_loss"],
            "best_top1": self.best["top1"],
            "best_epoch": self.best["epoch"],
            **({"miou": last["val_miou"], "best_miou": self.best["miou"]} if "val_miou" in last else {}),
            "params": self.params,
            "seconds": self.seconds,
            "train_seconds_per_epoch": statistics.median(row["seconds"] for row in self.history),
            **provenance(self.engine.fabric.device),
            "skipped_images": len(self.skipped),
            **({"passed_over": passed} if (passed := self.meta.get("passed_over")) else {}),
            "left_out_steps": len(self.left_out),
        }


def changes_of_images(then: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> list[str]:
    """Return a line for each kind of images that have changed since a checkpoint was saved.

    Args:
        then: the "images" of the checkpoint's meta: by kind (training, validation) a fingerprint of count, listing and
            bytes, as the package `data` makes them; empty if nothing is known.
        now: those of today.
        path: the checkpoint.
    Raises:
        InputError: there are more or fewer images, or others by name or class.
    """
    found = []
    for kind in (kind for kind in then if kind in now):
        old, new = then[kind], now[kind]
        if (old["count"], old["listing"]) != (new["count"], new["listing"]):
            difference = (
                f"{old['count']} {kind} images, and now there are {new['count']}"
                if old["count"] != new["count"]
                else f"{old['count']} {kind} images, of which some now have other names or classes"
            )
            raise checks.InputError(
                f"{path} was saved in a run on {difference}: bring back those it began with, or start a new run"
            )
        if old["bytes"] != new["bytes"]:
            found.append(
                f"files of {kind} images have changed since the last checkpoint ({old['bytes']:,} bytes then, "
                f"{new['bytes']:,} now): the run will not end in the very same bits"
            )
    return found
