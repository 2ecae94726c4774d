"""One optimiser step. Its random numbers depend only on seed, step and process, so no generator state is saved.

Letters: B batch, C channels, H rows, W columns, K classes.
"""

import contextlib
from collections.abc import Container

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnconv.train.config import RunConfig
from attnconv.train.device import Engine
from attnconv.train.optim import SCHEDULES, one_cycle_momentum, set_momentum
from attnconv.train.run_state import RunState

FILLERS = 2  # images: batch norm needs more than one


def train_step(engine: Engine, state: RunState, images: Tensor, labels: Tensor) -> None:
    """Train on this process's part of a batch, which may be empty; ``state`` records the loss but not the step.

    Shapes: images (B, C, H, W); labels (B,) int64, (B, K) probabilities, or (B, H, W) int64, one a pixel.
    """
    config, world = state.config, engine.ranks.world
    total = engine.ranks.sum(torch.tensor(float(len(labels)), device=images.device)) if world > 1 else len(labels)
    # Reading the number waits for the device, and only bad images can make a batch empty in all processes.
    if (world == 1 or config.skip_bad_images) and not total:
        return
    lr = set_rates(engine, state)
    reseed(config.seed, state.step, engine.ranks.rank)
    watched = config.on_nan == "skip"
    buffers = [buffer.clone() for buffer in engine.bare.buffers()] if watched else []
    sums = compute_gradients(engine, config, images, labels, world / total)
    if watched and not all_finite(engine, sums):  # before clipping, after which a loss scaler wants its step
        for buffer, value in zip(engine.bare.buffers(), buffers, strict=True):
            buffer.copy_(value)
        engine.optimizer.zero_grad()
        state.leave_out(state.step)
        return
    if state.epoch < config.freeze_epochs:
        drop_gradients(engine.bare, state.taken_over)
    clip_gradients(engine, config)
    engine.optimizer.step()
    engine.optimizer.zero_grad()
    if engine.average is not None:
        engine.average.update(state.step + 1)
    state.sums.add(state.step + 1, lr, sums)


def reseed(seed: int, step: int, rank: int = 0) -> None:
    """Seed torch's generators of every device for ``step`` of a run with ``seed`` in process ``rank``."""
    # SeedSequence mixes: seed + step would give run 1 at step 0 the numbers of run 0 at step 1.
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]))


def set_rates(engine: Engine, state: RunState) -> float:
    """Set the optimiser's learning rate and momentum for the present step of ``state``; return the learning rate."""
    config, total = state.config, state.config.epochs * state.batches
    lr = state.lr_factor * SCHEDULES[config.schedule](state.step, total, peak=config.lr, warmup=config.warmup)
    for group in engine.optimizer.param_groups:
        group["lr"] = lr
    if config.base_momentum is not None and config.max_momentum is not None:
        ends = {"base": config.base_momentum, "largest": config.max_momentum}
        set_momentum(engine.optimizer, one_cycle_momentum(state.step, total, **ends, warmup=config.warmup))
    return lr


def compute_gradients(
    engine: Engine, config: RunConfig, images: Tensor, labels: Tensor, scale: float | Tensor
) -> Tensor:
    """Compute gradients of ``scale`` times the summed loss; return sums of losses, hits and images, (3,) float32.

    If each pixel has a label, an image's loss and hit are means over its pixels.
    """
    weight = 1.0
    if not len(labels):  # the other processes wait for this one inside the network
        images, labels = (t.new_zeros(FILLERS, *t.shape[1:]) for t in (images, labels))
        weight = 0.0
    count = min(config.accumulate, len(labels) if weight else 1)
    parts = list(zip(images.tensor_split(count), labels.tensor_split(count), strict=True))
    sums = torch.zeros(3, device=images.device)
    for number, (x, y) in enumerate(parts, 1):
        apart = engine.ranks.world > 1 and number < len(parts)  # only the last part's gradients are exchanged
        with engine.fabric.no_backward_sync(engine.model) if apart else contextlib.nullcontext():  # pyright: ignore[reportArgumentType]
            logits = engine.model(x)  # (B, K) or (B, K, H, W)
            pixels = logits.shape[2:].numel()  # 1 without
            loss = weight * F.cross_entropy(logits, y, label_smoothing=config.label_smoothing, reduction="sum") / pixels
            engine.fabric.backward(loss * scale)
        hits = (logits.detach().argmax(1) == (y.argmax(1) if y.is_floating_point() else y)).sum() / pixels
        sums += torch.stack([loss.detach().float(), weight * hits, hits.new_tensor(weight * len(y))])
    return sums


def drop_gradients(model: nn.Module, names: Container[str]) -> None:
    """Drop the gradients of the parameters ``names``, so that the optimiser leaves them alone.

    requires_grad stays True: DDP never exchanges gradients of parameters that were frozen when it wrapped the network.
    """
    for name, parameter in model.named_parameters():
        if name in names:
            parameter.grad = None


def hold_norms(model: nn.Module, names: Container[str]) -> None:
    """Put the batch norms whose running statistics are among ``names`` into evaluation mode."""
    for name, module in model.named_modules():
        if f"{name}.running_mean".removeprefix(".") in names:
            module.eval()


def clip_gradients(engine: Engine, config: RunConfig) -> None:
    """Clip the norm of all gradients to ``config.clip``."""
    if config.clip is not None:
        engine.fabric.clip_gradients(engine.model, engine.optimizer, max_norm=config.clip, error_if_nonfinite=False)  # pyright: ignore[reportArgumentType]


@torch.no_grad()
def all_finite(engine: Engine, sums: Tensor) -> bool:
    """True if losses and gradients are finite in every process. This waits for the device.

    A loss scaler skips steps of infinite gradients by itself, so gradients are not looked at with one.
    """
    finite = sums[0].isfinite()
    if getattr(engine.fabric.strategy.precision, "scaler", None) is None:
        norm = nn.utils.get_total_norm(w.grad for w in engine.bare.parameters() if w.grad is not None)
        finite = finite & norm.isfinite()
    return not engine.ranks.sum((~finite).float()).item()
