"""The state of a run, from which checkpoints, metrics.csv and result.json are written and a run is resumed."""

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
MOST_IN_A_ROW = 10  # skipped steps, whose loss is not finite, until a run gives up


class RunState:
    """The engine's weights and the progress of a run. It changes, and may be saved, between optimiser steps only.

    Args:
        batches: training batches per epoch.
        folder: of the checkpoints.
        meta: plain values for the checkpoints, from which the network can be rebuilt.
    """

    def __init__(
        self, engine: Engine, *, config: RunConfig, batches: int, folder: RunFolder, meta: dict[str, Any]
    ) -> None:
        self.engine, self.model = engine, engine.bare
        self.config, self.batches, self.folder, self.meta = config, batches, folder, meta
        self.last = folder.last
        self.last_is_good = False
        self.epoch = 0  # whole epochs done
        self.step_in_epoch = 0  # batches done of the next one
        self.sums = TrainSums()  # of these batches
        self.history: list[dict[str, Any]] = []  # the rows of metrics.csv
        self.best: dict[str, Any] | None = None  # top1, epoch and, of pixels, miou of the best row
        self.skipped: set[str] = set()  # undecodable files
        self.taken_over: set[str] = set()  # weights that came with init_from
        self.lr_factor = 1.0  # of the schedule; halved by each return to a checkpoint
        self.left_out: list[int] = []  # steps, from 0, whose loss was not finite
        self.processes = engine.ranks.world  # at the start of the run, as the threads
        self.threads = torch.get_num_threads()  # the last bits of sums depend on it
        self.changes: list[str] = []  # of the images since the checkpoint
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
        """Seconds of the whole run, including those before it was resumed."""
        return time.perf_counter() - self._began

    def epoch_done(self, row: dict[str, Any]) -> bool:
        """Close an epoch with its row of metrics.csv; True if it is the best so far, by miou if that is known."""
        self.history.append(row)
        self.epoch, self.step_in_epoch, self.sums = self.epoch + 1, 0, TrainSums()
        score = "miou" if "val_miou" in row else "top1"
        if self.best is not None and row[f"val_{score}"] <= self.best[score]:
            return False
        self.best = {"top1": row["val_top1"], "epoch": row["epoch"], score: row[f"val_{score}"]}
        return True

    def differences(self) -> list[str]:
        """Return reasons why the resumed run may differ in its bits from one that was never stopped."""
        counts = {
            "CPU threads": (self.threads, torch.get_num_threads()),
            "processes": (self.processes, self.engine.ranks.world),
        }
        return self.changes + [
            f"the run began with {then} {name} and goes on with {now}: its result will not be bit-identical"
            for name, (then, now) in counts.items()
            if then != now
        ]

    def leave_out(self, step: int) -> None:
        """Record a step whose loss or gradients were not finite; Diverged after too many in a row."""
        self.left_out.append(step)
        if self.left_out[-MOST_IN_A_ROW:] == list(range(step - MOST_IN_A_ROW + 1, step + 1)):
            raise Diverged(
                f"the loss or a gradient was not finite in {MOST_IN_A_ROW} steps in a row, up to step {step + 1} "
                f"(lr {self.lr:.3g}): give a smaller lr",
                step + 1,
            )

    def save(self, *, best: bool = False) -> None:
        """Write last.pt, keep the old one as previous.pt, and if ``best`` write best.pt, all in the first process.

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
            self.skipped = set().union(*ranks.gather(self.skipped))
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
        if best:  # first: if killed between the two, the run resumes from the older last.pt and writes best.pt again
            save_checkpoint(self.folder.best, state)
        # A damaged last.pt must not take the place of the good one before it.
        save_checkpoint(self.last, state, previous=self.folder.previous if self.last_is_good else None)
        self.last_is_good = True

    def restore_newest(self) -> str | None:
        """Restore the newest checkpoint that can be read, if there is one; return a note about it."""
        path, note = self.engine.ranks.on_first(lambda: self.folder.reopen(self.config))
        if path is not None:
            self.restore(load_checkpoint(path), path)
        return note

    def restore(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Load ``checkpoint``, read from ``path``; InputError if it belongs to other images or weights."""
        self.changes = changes_of_images(checkpoint["meta"].get("images", {}), self.meta.get("images", {}), path)
        if (then := checkpoint["batches_per_epoch"]) != self.batches:
            raise checks.InputError(
                f"{path} was saved in a run of {then} batches an epoch, and now there are {self.batches}: "
                "the training images have changed"
            )
        with checks.explained(f"{path} is damaged", AttributeError, KeyError, TypeError, ValueError, reason=repr):
            self.engine.load_state_dict(checkpoint, path)
            self.sums = TrainSums(**checkpoint["sums"])
            self.skipped, self.taken_over = set(checkpoint["skipped"]), set(checkpoint["taken_over"])
        for name in SAVED:
            setattr(self, name, checkpoint[name])
        self._began = time.perf_counter() - checkpoint["seconds"]
        self.last_is_good = path == self.last

    def facts(self, train_loader: Loader, val_loader: Loader) -> dict[str, str]:
        """Return the lines of a run's header."""
        config, meta, world, threads = self.config, self.meta, self.engine.ranks.world, torch.get_num_threads()
        known = meta.get("images", {})
        images = [
            f"{known.get(kind, {}).get('count', loader.num_samples):,} {kind}"
            for kind, loader in (("training", train_loader), ("validation", val_loader))
        ]
        if "image_size" in meta:
            images.append(f"{'x'.join(map(str, meta['image_size']))} pixels")
        computing = f"{world} processes" if world > 1 else f"{threads} thread{'s' * (threads > 1)}"
        return {
            "network": f"{config.model}, {self.params:,} parameters",
            "data": config.data + (f", {len(meta['classes'])} classes" if "classes" in meta else ""),
            "images": ", ".join(images),
            "steps": f"{config.epochs * self.batches:,}, {self.batches:,} per epoch"
            + (f", {self.step:,} done" if self.step else ""),
            "device": f"{device_name(self.engine.fabric.device)}, {config.precision}, {computing}",
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
        """Return the values of result.json; top1, top5, miou and loss are the last epoch's, on validation images."""
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
    """Return a line for each kind of images whose files have changed since a checkpoint was saved.

    Args:
        then: "images" of the checkpoint's meta: fingerprints by kind (training, validation), made by the package
            `data`; empty if unknown.
        now: the present ones.
        path: the checkpoint.
    Raises:
        InputError: the number, the names or the classes of the images differ.
    """
    found = []
    for kind in (kind for kind in then if kind in now):
        old, new = then[kind], now[kind]
        if (old["count"], old["listing"]) != (new["count"], new["listing"]):
            same = old["count"] == new["count"]
            today = "some have other names or classes" if same else f"there are {new['count']}"
            raise checks.InputError(
                f"{path} was saved in a run on {old['count']} {kind} images, and now {today}: bring back those it "
                "began with, or start a new run"
            )
        if old["bytes"] != new["bytes"]:
            found.append(
                f"files of {kind} images have changed since the last checkpoint ({old['bytes']:,} bytes then, "
                f"{new['bytes']:,} now): the result will not be bit-identical"
            )
    return found
