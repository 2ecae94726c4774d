"""What a run reports: a row of metrics.csv an epoch, and result.json at the end."""

import statistics
from collections.abc import Mapping
from typing import Any

import torch

from attnconv.train.divergence import require_finite
from attnconv.train.evaluate import Scores
from attnconv.train.provenance import provenance
from attnconv.train.run_state import RunState


def metrics_row(state: RunState, scores: Scores, observed: Mapping[str, float]) -> dict[str, Any]:
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
        **({} if scores.miou is None else {"val_miou": scores.miou}),
        **observed,
    }


def summary(state: RunState, device: torch.device) -> dict[str, Any]:
    """What result.json holds of a run that is done; top1, top5, miou and loss are the last epoch's, on validation."""
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
        **({"miou": last["val_miou"], "best_miou": state.best["miou"]} if "val_miou" in last else {}),
        "params": sum(parameter.numel() for parameter in state.model.parameters()),
        "seconds": state.seconds,
        "train_seconds_per_epoch": statistics.median(row["seconds"] for row in state.history),
        **provenance(device),
        "skipped_images": len(state.skipped),
        "left_out_steps": len(state.left_out),
    }
