"""Augmentation: settings, transforms of an image after its crop, and mixing of a whole batch.

Letters: B batch, C channels, H rows, W columns, K classes.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attnconv import checks
from attnconv.data.batches import Batch, Mix, seed_of


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training images; RunConfig checks the values.

    Args:
        crop_scale: smallest share of a file's area that its random crop covers; small sets are shifted instead.
        trivial: apply one random operation of random strength to each image (TrivialAugment, arXiv:2103.10158).
        erasing: random-erasing probability (arXiv:1708.04896).
        mixup: alpha of mixup's Beta distribution (arXiv:1710.09412); 0 turns it off.
        cutmix: alpha of CutMix's (arXiv:1905.04899); 0 turns it off. With both, each batch has one of the two.
    """

    crop_scale: float = 0.35
    trivial: bool = False
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def of_tensors(self) -> list[str]:
        """RunConfig's names of the active settings that change small sets."""
        names = {"trivial": "trivial_augment", "erasing": "random_erasing", "mixup": "mixup", "cutmix": "cutmix"}
        return [name for setting, name in names.items() if getattr(self, setting)]


@contextlib.contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Seed the global generator, from which torchvision's transforms draw, inside the block.

    torch.manual_seed would seed the accelerator's generators, too. The state is restored because this may run in the
    training process.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def image_transforms(augmentation: Augmentation, colour: Sequence[int]) -> list[Any]:
    """Return the transforms of an image (C, H, W) uint8 after its crop and flip; erasing fills with ``colour``."""
    if not (augmentation.trivial or augmentation.erasing):
        return []
    v2 = checks.require("torchvision.transforms.v2", extra="train")
    found = []
    if augmentation.trivial:
        found.append(v2.TrivialAugmentWide())
    if augmentation.erasing:
        found.append(v2.RandomErasing(augmentation.erasing, value=list(colour)))
    return found


def batch_mixer(augmentation: Augmentation, *, seed: int | None, num_classes: int) -> Mix | None:
    """Return mixup, CutMix or a random choice of both as a function of a batch, its epoch and its number.

    Returns None if both are off, or without a ``seed``, which means validation.

    Shapes: images (B, C, H, W) float32 and labels (B,) int64 -> images (B, C, H, W) and shares of the classes (B, K)
    float32. Each image is mixed with the one before it in its batch, the first with the last. All of a batch have one
    share, drawn from (seed, epoch, number).
    """
    if seed is None or not (augmentation.mixup or augmentation.cutmix):
        return None
    v2 = checks.require("torchvision.transforms.v2", extra="train")
    kinds = ((v2.MixUp, augmentation.mixup), (v2.CutMix, augmentation.cutmix))
    choice = v2.RandomChoice([kind(alpha=float(alpha), num_classes=num_classes) for kind, alpha in kinds if alpha])

    def mix(batch: Batch, epoch: int, number: int) -> Batch:
        if not len(batch.labels):  # none of its images could be decoded
            return Batch(batch.images, batch.images.new_zeros(0, num_classes))
        with drawn_from(seed_of(seed, epoch, number, 0)):  # a longer key than any image's
            images, labels = choice(batch.images, batch.labels)
        return Batch(images, labels.to(torch.float32))

    return mix
