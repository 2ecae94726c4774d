"""Losses and scores of a loader's images: the loader protocol, sums in training, evaluation, also without attention.

Letters: B batch, K classes, H rows, W columns.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnconv import checks
from attnconv.layers.activity import LogitChange, attention_off, evaluation_mode
from attnconv.train.processes import Ranks
from attnconv.train.progress import tracked


class Loader(Protocol):
    """Batches of a data set, the same for the same epoch.

    ``len(loader)`` is the number of batches per epoch. A batch may be smaller than the others, and empty if none of its
    images can be decoded.
    """

    @property
    def num_samples(self) -> int:
        """Images per epoch."""
        ...

    @property
    def skipped(self) -> list[str]:
        """Files so far that could not be decoded."""
        ...

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, start: int = 0) -> Iterable[tuple[Tensor, Tensor]]:
        """Return the batches of ``epoch``, counted from 0, without its first ``start``.

        Each is images (B, C, H, W), float32, normalised, and labels (B,), int64, both on the device. Labels of mixed
        images are the classes' shares (B, K), float32; labels of pixels are (B, H, W), int64. A batch without any image
        that can be decoded has B = 0, because a run that resumes inside the epoch counts batches.
        """
        ...


class Diverged(checks.InputError):
    """A loss or a weight that is not finite after ``step`` steps."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


def require_finite(what: str, value: float, *, step: int, lr: float, checkpoint: Path) -> None:
    """Raise Diverged, with step, learning rate and last good checkpoint, unless ``value`` is finite.

    ``step`` counts from 1, as metrics.csv does; ``checkpoint`` need not exist.
    """
    if not math.isfinite(value):
        good = checkpoint if checkpoint.exists() else "none yet"
        raise Diverged(
            f"{what} is {value} at step {step} (lr {lr:.3g}): give a smaller lr; last good checkpoint: {good}", step
        )


@torch.no_grad()
def largest_value(model: nn.Module) -> float:
    """Return the largest value of weights and statistics, inf or nan if any is: a finite loss does not exclude that."""
    weights = [p.abs().max() for p in model.parameters() if p.numel()]
    statistics = [b.max() for b in model.buffers() if b.numel()]  # without abs, because a mask may well hold -inf
    return torch.stack([value.float() for value in weights + statistics]).max().item()


class TrainSums:
    """Sums over the images of an epoch. Results stay on the device until ``flush``, because each read stalls it.

    The sums are Python floats, added in the order of the steps, so they do not depend on when ``flush`` was called.
    """

    def __init__(
        self, loss: float = 0.0, hits: float = 0.0, images: int = 0, seconds: float = 0.0, waited: float = 0.0
    ) -> None:
        self.loss, self.hits, self.images = loss, hits, images
        self.seconds, self.waited = seconds, waited  # of the steps, and those of them spent waiting for the loader
        self._waiting: list[tuple[int, float, Tensor]] = []

    def add(self, step: int, lr: float, sums: Tensor) -> None:
        """Record ``step``, counted from 1: ``sums`` (3,) are the sum of the losses, the hits and the images."""
        self._waiting.append((step, lr, sums))

    def flush(self, checkpoint: Path, total: Callable[[Tensor], Tensor] = lambda sums: sums) -> None:
        """Add the recorded steps; ``total`` returns the sums of all processes for those of this one, (N, 3) of N steps.

        Raises:
            Diverged: a loss is not finite; for the first such step.
        """
        waiting, self._waiting = self._waiting, []
        values = total(torch.stack([sums for *_, sums in waiting])).tolist() if waiting else []
        for (step, lr, _), (loss, hits, images) in zip(waiting, values, strict=True):
            require_finite("the loss", loss, step=step, lr=lr, checkpoint=checkpoint)
            self.loss += loss
            self.hits += hits
            self.images += int(images)

    def to_dict(self) -> dict[str, float]:
        """Return TrainSums' arguments; call ``flush`` first."""
        assert not self._waiting
        return {name: getattr(self, name) for name in ("loss", "hits", "images", "seconds", "waited")}

    @property
    def mean_loss(self) -> float:
        return self.loss / max(self.images, 1)

    @property
    def top1(self) -> float:
        """Percent."""
        return 100 * self.hits / max(self.images, 1)

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Scores:
    """Means over ``count`` images: cross-entropy in nats, accuracies in percent. With K < 5, top5 is top-K.

    If each pixel has a label, these are means over the pixels, and ``miou`` is the mean intersection over union of all
    pixels in percent; it is None otherwise.
    """

    loss: float
    top1: float
    top5: float
    count: int
    miou: float | None = None


@torch.no_grad()  # not inference_mode: what a layer caches here must still serve in training
def evaluate(
    model: nn.Module,
    loader: Loader,
    *,
    progress: bool = False,
    ranks: Ranks | None = None,
    on_batch: Callable[[], None] = lambda: None,
    observe: Callable[[Tensor, Tensor], None] = lambda images, logits: None,
) -> Scores:
    """Score ``model``, (B, C, H, W) -> logits (B, K) or (B, K, H, W), in evaluation mode on the loader's epoch 0.

    The mode of every module is restored. For another precision than the model's own, pass
    ``make_fabric(...).setup_module(model)``.

    Args:
        progress: show a bar.
        ranks: processes, each of which brings its part of every batch; all get the scores of the whole. For an empty
            part an image of weight 0 is computed, because some networks need all processes to run.
        on_batch: called after each batch.
        observe: called with the images and the logits of each batch.
    Raises:
        InputError: the loader brings no image.
    """
    with evaluation_mode(model):
        sums, counts = [], []  # a batch's sums stay on the device: reading each of them would make it wait
        for images, labels in tracked(loader.epoch(0), total=len(loader), text="evaluating", shown=progress):
            if not len(labels):
                if ranks is not None and ranks.world > 1:
                    logits = model(images.new_zeros(1, *images.shape[1:]))
                    if labels.ndim == 3:
                        counts.append(confusion(logits[:0], labels))
                on_batch()
                continue
            logits = model(images).float()  # (B, K) or (B, K, H, W)
            observe(images, logits)
            pixels = logits.shape[2:].numel()  # 1 without
            loss = F.cross_entropy(logits, labels, reduction="sum") / pixels
            ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]  # (B, at most 5, ...)
            hits, near = ranked[:, 0].sum() / pixels, ranked.sum() / pixels
            sums.append(torch.stack([loss, hits, near, loss.new_tensor(len(labels))]))
            if labels.ndim == 3:
                counts.append(confusion(logits, labels))
            on_batch()
    of_all = (lambda sums: sums) if ranks is None else ranks.sum
    total = torch.stack(sums).cpu().double().sum(0) if sums else torch.zeros(4, dtype=torch.float64)
    loss, top1, top5, count = of_all(total).tolist()
    if not count:
        raise checks.InputError(f"the loader gave none of its {loader.num_samples} images: nothing to evaluate")
    miou = mean_iou(of_all(torch.stack(counts).cpu().double().sum(0))) if counts else None
    return Scores(loss / count, 100 * top1 / count, 100 * top5 / count, int(count), miou)


class WithoutAttention(nn.Module):
    """``model`` with its attention switched off.

    Shapes: (B, C, H, W) -> logits (B, K) or (B, K, H, W).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        with attention_off(self.model):
            return self.model(x)


def scores_without_attention(model: nn.Module, loader: Loader, ranks: Ranks | None = None) -> dict[str, float]:
    """Return the scores of ``model`` with attention switched off, and the change of its answers.

    top1, top5 and miou (of pixels) are in percent; logits_moved is a share of the logits' norm; predictions_changed is
    in percent of the images or pixels. ``ranks`` are those of `evaluate`.
    """
    change = LogitChange()
    scores = evaluate(
        WithoutAttention(model), loader, ranks=ranks, observe=lambda images, off: change.add(model(images), off)
    )
    if ranks is not None:
        change.sums = ranks.sum(change.sums)
    found = {name: getattr(scores, name) for name in ("top1", "top5", "miou") if getattr(scores, name) is not None}
    return found | {name: getattr(change, name) for name in ("logits_moved", "predictions_changed")}


def confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the confusion matrix of the pixels: logits (B, K, H, W), labels (B, H, W) -> (K, K) int64.

    Rows are true classes, columns predicted ones.
    """
    classes = logits.shape[1]
    pairs = labels * classes + logits.argmax(1)  # (B, H, W)
    return pairs.flatten().bincount(minlength=classes**2).view(classes, classes)


def mean_iou(counts: Tensor) -> float:
    """Return the mean intersection over union in percent, from the confusion matrix (K, K) of all images.

    Classes without true and predicted pixels are left out.
    """
    both = counts.diagonal()
    either = counts.sum(0) + counts.sum(1) - both
    there = either > 0
    return 100 * (both[there] / either[there]).double().mean().item()
