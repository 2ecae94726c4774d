"""Loss and accuracy of a model on every image of a loader, each counted once.

Letters: B batch, K classes, H rows, W columns.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnconv import checks
from attnconv.train.loader import Loader
from attnconv.train.pixels import confusion, mean_iou
from attnconv.train.progress import tracked
from attnconv.train.ranks import Ranks

OBSERVED = 64  # images


@dataclass(frozen=True)
class Scores:
    """Means over ``count`` images: cross-entropy in nats, accuracies in percent. With K < 5, top5 is top-K.

    Where each pixel has a label, these are means over the pixels, and ``miou`` is the mean intersection over union in
    percent, of the pixels of all images together; None otherwise.
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
    observe: Callable[[Tensor], None] | None = None,
) -> Scores:
    """Run ``model``, (B, C, H, W) -> logits (B, K) or (B, K, H, W), in evaluation mode over the loader's epoch 0.

    Of several processes, ``ranks``, each brings its part of every batch, and all get the scores of the whole. A part
    may be empty: an image that counts for nothing then takes its place, for some networks need all processes to run.

    ``observe`` is called once, with the first images.

    ``progress`` shows a bar; whoever has one already moves it by ``on_batch``, called after each batch.

    The mode of every module is restored. For another precision than the model's own, hand in
    ``make_fabric(...).setup_module(model)``.

    Raises:
        InputError: the loader brings no image.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        sums, counts = [], []  # a batch's sums stay on the device: reading each of them would make it wait
        for images, labels in tracked(loader.epoch(0), total=len(loader), text="evaluating", shown=progress):
            if not len(labels):
                if ranks is not None and ranks.world > 1:
                    logits = model(images.new_zeros(1, *images.shape[1:]))
                    if labels.ndim == 3:
                        counts.append(confusion(logits[:0], labels))
                on_batch()
                continue
            if observe is not None:
                observe(images[:OBSERVED])
                observe = None
            logits = model(images).float()  # (B, K) or (B, K, H, W)
            pixels = logits.shape[2:].numel()  # 1 without
            loss = F.cross_entropy(logits, labels, reduction="sum") / pixels
            ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]  # (B, at most 5, ...)
            hits, near = ranked[:, 0].sum() / pixels, ranked.sum() / pixels
            sums.append(torch.stack([loss, hits, near, loss.new_tensor(len(labels))]))
            if labels.ndim == 3:
                counts.append(confusion(logits, labels))
            on_batch()
    finally:
        for module, mode in modes.items():
            module.training = mode
    total = torch.stack(sums).cpu().double().sum(0) if sums else torch.zeros(4, dtype=torch.float64)
    loss, top1, top5, count = (total if ranks is None else ranks.sum(total)).tolist()
    if not count:
        raise checks.InputError(f"the loader gave none of its {loader.num_samples} images: nothing to evaluate")
    miou = None
    if counts:
        confused = torch.stack(counts).cpu().double().sum(0)
        miou = mean_iou(confused if ranks is None else ranks.sum(confused))
    return Scores(loss / count, 100 * top1 / count, 100 * top5 / count, int(count), miou)
