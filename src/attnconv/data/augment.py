"""Augmentation: the settings, the transforms of one image after its crop, and the mixing of a whole batch.

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
    """Settings of how training images are varied; validation images never are.

    Args:
        crop_scale: the least part of a file's area that its random crop covers; small sets are shifted instead.
        trivial: one random operation of random strength an image (TrivialAugment, arXiv:2103.10158).
        erasing: random-erasing probability (arXiv:1708.04896).
        mixup: alpha of the Beta distribution by which pairs of images are blended (arXiv:1710.09412); 0 for none.
        cutmix: alpha of that by which rectangles of pairs are swapped (arXiv:1905.04899); 0 for none. With both, each
            batch has one or the other.
    Raises:
        InputError: a number out of its range.
    """

    crop_scale: float = 0.35
    trivial: bool = False
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < checks.number("crop_scale", self.crop_scale) <= 1:
            raise checks.InputError(f"crop_scale must be above 0 and at most 1, got {self.crop_scale}")
        checks.flag("trivial_augment", self.trivial)
        if not 0 <= checks.number("random_erasing", self.erasing) <= 1:
            raise checks.InputError(f"random_erasing must be at least 0 and at most 1, got {self.erasing}")
        for name in ("mixup", "cutmix"):
            if checks.number(name, getattr(self, name)) < 0:
                raise checks.InputError(f"{name} must be at least 0, got {getattr(self, name)}")

    @property
    def of_tensors(self) -> list[str]:
        """Names of RunConfig's fields for what it does to small sets."""
        settings = {
            "trivial_augment": self.trivial,
            "random_erasing": self.erasing,
            "mixup": self.mixup,
            "cutmix": self.cutmix,
        }
        return [name for name, setting in settings.items() if setting]

    @property
    def of_one_image(self) -> bool:
        """True if it changes single images after the crop and the flip."""
        return self.trivial or self.erasing > 0


@contextlib.contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Let torchvision's transforms, which draw from the global generator, draw what ``seed`` gives.

    The generator is seeded itself, not by torch.manual_seed, which would seed the accelerator's too, and put back
    afterwards, since all of this may run in the training process.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def image_transforms(augmentation: Augmentation, colour: Sequence[int]) -> list[Any]:
    """Return those of one image (C, H, W) uint8 after its crop and flip; ``colour`` is what erasing leaves."""
    if not augmentation.of_one_image:
        return []
    v2 = checks.require("torchvision.transforms.v2", extra="train")
    found = []
    if augmentation.trivial:
        found.append(v2.TrivialAugmentWide())
    if augmentation.erasing:
        found.append(v2.RandomErasing(augmentation.erasing, value=list(colour)))
    return found


def batch_mixer(augmentation: Augmentation, *, seed: int | None, num_classes: int) -> Mix | None:
    """Return mixup, cutmix or either at random, for the batch of an epoch and number; None if neither is wanted.

    None without a ``seed`` too, which means validation.

    Shapes: images (B, C, H, W) float32 and labels (B,) int64 -> images as they were and labels (B, K) float32, which
    are the shares of the classes. Every image is mixed with the one before it in its batch, the first with the last,
    and a batch has one share for all, drawn from (seed, epoch, number).
    """
    if seed is None or not (augmentation.mixup or augmentation.cutmix):
        return None
    v2 = checks.require("torchvision.transforms.v2", extra="train")
    kinds = []
    if augmentation.mixup:
        kinds.append(v2.MixUp(alpha=float(augmentation.mixup), num_classes=num_classes))
    if augmentation.cutmix:
        kinds.append(v2.CutMix(alpha=float(augmentation.cutmix), num_classes=num_classes))
    choice = v2.RandomChoice(kinds)

    def mix(batch: Batch, epoch: int, number: int) -> Batch:
        if not len(batch.labels):  # none of its images could be decoded
            return Batch(batch.images, batch.images.new_zeros(0, num_classes))
        with drawn_from(seed_of(seed, epoch, number, 0)):  # a longer key than any image's
            images, labels = choice(batch.images, batch.labels)
        return Batch(images, labels.to(torch.float32))

    return mix
