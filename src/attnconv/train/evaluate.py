"""Loss and accuracy of a model on every image of a loader, each counted once.

Letters: B batch, K classes.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from attnconv import checks
from attnconv.train.loader import Loader
from attnconv.train.progress import tracked


@dataclass(frozen=True)
class Scores:
    """Means over ``count`` images: cross-entropy in nats, accuracies in percent. With K < 5, top5 is top-K."""

    loss: float
    top1: float
    top5: float
    count: int


@torch.no_grad()  # not inference_mode: what a layer caches here must still serve in training
def evaluate(model: nn.Module, loader: Loader, *, progress: bool = False) -> Scores:
    """Run ``model``, (B, C, H, W) -> logits (B, K), in evaluation mode over the loader's epoch 0.

    The mode of every module is restored. For another precision than the model's own, hand in
    ``make_fabric(...).setup_module(model)``.

    Raises:
        InputError: the loader brings no image.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        count, sums = 0, []  # a batch's sums stay on the device: reading each of them would make it wait
        for images, labels in tracked(loader.epoch(0), total=len(loader), text="evaluating", shown=progress):
            logits = model(images).float()  # (B, K)
            loss = F.cross_entropy(logits, labels, reduction="sum")
            ranked = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]  # (B, at most 5)
            sums.append(torch.stack([loss, ranked[:, 0].sum(), ranked.sum()]))
            count += len(labels)
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not count:
        raise checks.InputError(f"the loader gave none of its {loader.num_samples} images: nothing to evaluate")
    loss, top1, top5 = torch.stack(sums).cpu().double().sum(0).tolist()
    return Scores(loss / count, 100 * top1 / count, 100 * top5 / count, count)
