"""Checkpoints: a dict of tensors and plain values in one file, which is read without running any code in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnconv import checks
from attnconv.files import append_checksum, replacing, verify_checksum
from attnconv.foreign import NotPlainError, read_plain
from attnconv.weights import difference, shapes_of

FORMAT = 2
OTHERS = "`attnconv import` reads checkpoints of other programs"
# average: of the weights, or None; epoch: whole epochs done; step_in_epoch: batches done of the next one; sums:
# TrainSums of these; lr_factor, left_out: results of losses that were not finite; best: the best epoch so far; history:
# the rows of metrics.csv; seconds: of the whole run; threads, processes: at its start; skipped: files that could not be
# decoded; config: RunConfig.to_dict(); meta: values of `fit`'s caller.
KEYS = {
    *("format", "model", "optimizer", "scaler", "average", "epoch", "step_in_epoch", "batches_per_epoch", "sums"),
    *("lr_factor", "left_out", "processes", "threads", "best", "history", "skipped"),
    *("taken_over", "seconds", "config", "meta"),
}


def save_checkpoint(path: Path, state: Mapping[str, Any], *, previous: Path | None = None) -> None:
    """Write ``state``, every key of KEYS but "format", to ``path`` with a checksum, atomically.

    Args:
        previous: new name of the checkpoint that was at ``path``.
    Raises:
        InputError: it could not be written; ``path`` is as it was.
    """
    state = {"format": FORMAT, **state}
    assert state.keys() == KEYS, state.keys() ^ KEYS
    with replacing(path, previous=previous) as file:
        with checks.explained(f"cannot write {path} (is the disk full?)", RuntimeError):  # torch's for an OSError
            torch.save(state, file)
        append_checksum(file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return the dict that ``save_checkpoint`` wrote, its tensors on the CPU.

    Raises:
        InputError: the file is missing, cut short, damaged, from another program or of another format, or holds
            anything but tensors and plain values; no code in it is run.
    """
    with checks.explained(f"{path} cannot be read", OSError):
        if not path.exists():
            raise checks.InputError(f"no checkpoint at {path}")
        try:
            verify_checksum(path)
            state = read_plain(path)
        except NotPlainError as error:
            raise checks.InputError(f"{error}; {OTHERS}") from None
    if not isinstance(state, dict) or "format" not in state:
        raise checks.InputError(f"{path} is not a checkpoint of attnconv: it has no 'format'; {OTHERS}")
    if state["format"] != FORMAT:
        raise checks.InputError(f"{path} is a checkpoint of format {state['format']!r}, this version reads {FORMAT}")
    if missing := sorted(KEYS - state.keys()):
        raise checks.InputError(f"{path} is not a whole checkpoint: it has no {missing[0]!r}")
    for name in ("model", "config", "meta"):
        if not isinstance(state[name], dict):
            raise checks.InputError(f"{path} is damaged: its {name!r} is no dict but {type(state[name]).__name__}")
    if wrong := [name for name, value in state["model"].items() if not isinstance(value, torch.Tensor)]:
        raise checks.InputError(f"{path} is damaged: {wrong[0]!r} of its 'model' is no tensor")
    return state


def load_weights(model: nn.Module, checkpoint: Mapping[str, Any], path: Path, *, averaged: bool = False) -> None:
    """Load the weights and buffers of ``checkpoint``, read from ``path``, into ``model``.

    Args:
        averaged: load the average of the weights if there is one, as the run's scores are the average's.
    Raises:
        InputError: they are another network's; ``model`` is then unchanged.
    """
    given = {**checkpoint["model"], **((averaged and checkpoint["average"]) or {})}
    require_weights(model, checkpoint, path)
    model.load_state_dict(given)


def require_weights(model: nn.Module, checkpoint: Mapping[str, Any], path: Path) -> None:
    """Raise InputError unless weights and buffers of ``checkpoint``, read from ``path``, fit ``model``."""
    if problem := difference(shapes_of(checkpoint["model"]), shapes_of(model.state_dict())):
        raise checks.InputError(f"{path} is a checkpoint of {checkpoint['config'].get('model')!r}: {problem}")
