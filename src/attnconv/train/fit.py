"""The training loop: one process, one device, and a run that can be stopped anywhere and gone on with exactly.

What makes resuming exact: the learning rate, the random numbers and the batches of a step are functions of the step's
number and the seed, so a checkpoint needs the weights, the optimiser and that number, and nothing else. On a CPU with
the same number of threads, a resumed run ends in the same bits as one that was never stopped.

Letters: B batch, K classes.
"""

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from attnconv import checks
from attnconv.train.config import RunConfig
from attnconv.train.device import make_fabric
from attnconv.train.divergence import require_finite
from attnconv.train.evaluate import Scores, evaluate
from attnconv.train.interrupts import interrupts_held, termination_raised
from attnconv.train.loader import Loader
from attnconv.train.optim import build_optimizer
from attnconv.train.plain import plain
from attnconv.train.progress import Display
from attnconv.train.provenance import provenance
from attnconv.train.run_folder import Found, RunFolder
from attnconv.train.run_lock import locked
from attnconv.train.run_state import RunState
from attnconv.train.schedule import SCHEDULES
from attnconv.train.seeding import reseed

if TYPE_CHECKING:
    from lightning_fabric import Fabric

STEPS_BETWEEN_LOOKS = 10  # at the losses: each look waits for the device


def fit(
    model: nn.Module,
    train_loader: Loader,
    val_loader: Loader,
    *,
    config: RunConfig,
    out: Path,
    meta: dict[str, Any],
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train ``model``, (B, C, H, W) -> logits (B, K), in place; leave the run in the folder ``out``.

    The folder receives config.yaml, metrics.csv (a row an epoch), last.pt and best.pt (by validation top-1), and at
    the end result.json; until then previous.pt is what last.pt was before. The loss is cross-entropy, smoothed in
    training and plain in validation. Ctrl-C and SIGTERM save last.pt at the step they came in, and are raised.
    torch's random generators are left at an arbitrary state.

    Args:
        meta: plain values that the checkpoints carry for whoever rebuilds the network: class names, say.
        resume: go on with the run in ``out``; a finished one is not trained again.
        progress: show a line an epoch on stderr, and a live bar if that is a terminal.
    Returns:
        What result.json holds. Accuracies in percent; seconds are of the run, train_seconds_per_epoch their median.
    Raises:
        InputError: ``out`` holds a run already (or, to resume, none or another one), cannot be written, the disk is
            full or another process trains into it; the device or the precision is not to be had; a loader brings
            nothing; ``meta`` is not plain; the loss or a weight is not finite.
        KeyboardInterrupt: after Ctrl-C; after SIGTERM its subclass Terminated.
    """
    folder = RunFolder(out)
    if resume:
        folder.reopen(config)
        if (result := folder.stored_result()) is not None:
            return result
    else:
        folder.require_free()
    meta = plain("meta", meta)
    for kind, loader in (("training", train_loader), ("validation", val_loader)):
        if not len(loader):
            raise checks.InputError(
                f"the {kind} images do not fill one batch: lower batch_size ({config.batch_size}) or give more images"
            )
    fabric = make_fabric(config.device, config.precision)
    wrapped, optimizer = fabric.setup(model, build_optimizer(model, config))
    precision = fabric.strategy.precision
    state = RunState(
        model, optimizer.optimizer, precision, config=config, batches=len(train_loader), folder=folder, meta=meta
    )
    folder.make()
    with locked(folder.path), termination_raised():
        if resume:
            found = folder.reopen(config)  # once more: only now nobody else writes to it
            if found.checkpoint is not None:
                state.restore(found)
        else:
            folder.require_free()
            found = Found(None, folder.last)
        with Display(progress, epochs=config.epochs, batches=len(train_loader), step=state.step) as display:
            if found.note:
                display.line(f"note: {found.note}")
            if state.threads != torch.get_num_threads():
                display.line(
                    f"note: the run began with {state.threads} CPU threads and goes on with "
                    f"{torch.get_num_threads()}: it will not end in the very same bits"
                )
            train(state, wrapped, optimizer, fabric, (train_loader, val_loader), display)
        result = summary(state, fabric.device)
        folder.write_result(result)
        folder.previous.unlink(missing_ok=True)
    return result


def train(
    state: RunState,
    model: nn.Module,
    optimizer: Any,
    fabric: "Fabric",
    loaders: tuple[Loader, Loader],
    display: Display,
) -> None:
    """Do the epochs that are left, each with its validation and its checkpoint; ``loaders``: training, validation."""
    folder, (train_loader, val_loader) = state.folder, loaders
    try:
        folder.write_config(state.config)
        folder.write_metrics(state.history)  # cuts it back to the checkpoint
        while state.epoch < state.config.epochs:
            train_epoch(state, model, optimizer, fabric, train_loader, display)
            scores = evaluate(model, val_loader)
            with interrupts_held():
                row = metrics_row(state, scores)
                state.skipped.update(train_loader.skipped, val_loader.skipped)
                state.save(best=state.epoch_done(row))
                folder.write_metrics(state.history)
                display.epoch_done(row)
    except KeyboardInterrupt:
        with interrupts_held():
            state.skipped.update(train_loader.skipped, val_loader.skipped)
            state.save()
        raise
    except BaseException:
        folder.forget_empty_run()
        raise


def train_epoch(
    state: RunState, model: nn.Module, optimizer: Any, fabric: "Fabric", loader: Loader, display: Display
) -> None:
    """Do what is left of the epoch at which ``state`` stands. A Ctrl-C is raised between two steps."""
    config, sums = state.config, state.sums
    schedule, total_steps = SCHEDULES[config.schedule], config.epochs * len(loader)
    model.train()
    began = time.perf_counter() - sums.seconds
    for images, labels in loader.epoch(state.epoch, start=state.step_in_epoch):
        with interrupts_held():
            if len(labels):
                lr = schedule(state.step, total_steps, peak=config.lr, warmup=config.warmup)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                reseed(config.seed, state.step)
                logits = model(images)  # (B, K)
                loss = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
                fabric.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                sums.add(state.step + 1, lr, loss, logits, labels)
            state.step_in_epoch += 1
            sums.seconds = time.perf_counter() - began
            if config.checkpoint_steps and state.step % config.checkpoint_steps == 0:
                state.skipped.update(loader.skipped)
                state.save()
            if state.step_in_epoch % STEPS_BETWEEN_LOOKS == 0:
                sums.flush(state.last)
                display.batch_done(state.epoch, state.step_in_epoch, sums)
    sums.flush(state.last)
    sums.seconds = time.perf_counter() - began  # once more: the flush has waited for the device
    display.batch_done(state.epoch, state.step_in_epoch, sums)
    if not sums.images:
        raise checks.InputError(f"epoch {state.epoch + 1} brought none of {loader.num_samples} training images")


def metrics_row(state: RunState, scores: Scores) -> dict[str, Any]:
    """The row of metrics.csv for the epoch at whose end ``state`` stands; InputError if the loss is not finite."""
    require_finite("the validation loss", scores.loss, step=state.step, lr=state.lr, checkpoint=state.last)
    return {
        "epoch": state.epoch + 1,
        "step": state.step,
        "lr": state.lr,
        "train_loss": state.sums.mean_loss,
        "train_top1": state.sums.top1,
        "val_loss": scores.loss,
        "val_top1": scores.top1,
        "val_top5": scores.top5,
        "images_per_second": state.sums.images_per_second,
        "seconds": state.sums.seconds,
    }


def summary(state: RunState, device: torch.device) -> dict[str, Any]:
    """What result.json holds of a run that is done; top1, top5 and loss are the last epoch's, on validation."""
    assert state.best is not None
    last = state.history[-1]
    return {
        "model": state.config.model,
        "data": state.config.data,
        "epochs": state.config.epochs,
        "seed": state.config.seed,
        "top1": last["val_top1"],
        "top5": last["val_top5"],
        "loss": last["val_loss"],
        "best_top1": state.best["top1"],
        "best_epoch": state.best["epoch"],
        "params": sum(parameter.numel() for parameter in state.model.parameters()),
        "seconds": state.seconds,
        "train_seconds_per_epoch": statistics.median(row["seconds"] for row in state.history),
        **provenance(device),
        "skipped_images": len(state.skipped),
    }
