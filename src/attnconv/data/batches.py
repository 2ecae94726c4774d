"""Batches of a data set: their images and order depend on (seed, epoch) alone.

Letters: B batch, C channels, H rows, W columns, K classes.
"""

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from attnconv import checks

if TYPE_CHECKING:
    from attnconv.data.augment import Augmentation
    from attnconv.data.view import Normalise


def seed_of(seed: int, *key: int) -> int:
    """Return a seed for (seed, *key); different keys, of different lengths too, share one only by chance.

    numpy's SeedSequence hashes all the words. As ``spawn_key`` they are kept apart from ``seed``, so (1, 2) and
    (1, 2, 0) differ; as entropy they would not.
    """
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)[0])


def generator(seed: int, *key: int) -> torch.Generator:
    """Return a generator for (seed, *key), on the CPU so that its numbers are the same for every device."""
    return torch.Generator().manual_seed(seed_of(seed, *key))


class Batch(NamedTuple):
    """A loader's batch: ``images`` (B, C, H, W) float32, normalised; ``labels`` (B,) int64.

    ``labels`` of mixed images are the shares of the classes, (B, K) float32; labels of pixels are (B, H, W) int64.
    """

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class BatchOrder:
    """The order of ``num_images`` in batches.

    With a ``seed`` (training): shuffled, without the last, incomplete batch, because batch norm needs more than one
    image. Without (validation): every image once, in order. Process ``rank`` of ``world`` has its own part of every
    batch; all have the same number of batches, so a part may be empty.
    """

    num_images: int
    batch_size: int
    seed: int | None = None
    rank: int = 0
    world: int = 1

    def shard(self, rank: int, world: int) -> "BatchOrder":
        """Return the part of process ``rank`` of ``world``."""
        return dataclasses.replace(self, rank=rank, world=world)

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return -(-self.num_samples // self.batch_size)

    @property
    def num_samples(self) -> int:
        """Images per epoch."""
        return self.num_images - (self.num_images % self.batch_size if self.seed is not None else 0)

    def batches(self, epoch: int, start: int = 0) -> tuple[Tensor, ...]:
        """Return this process's image numbers, (B,) int64, of each batch of ``epoch`` from ``start`` on."""
        checks.integer("epoch", epoch, at_least=0)
        if checks.integer("start", start, at_least=0) > len(self):
            raise checks.InputError(f"start must be at most {len(self)}, the batches of an epoch, got {start}")
        if self.seed is None:
            order = torch.arange(self.num_images)
        else:
            order = torch.randperm(self.num_images, generator=generator(self.seed, epoch))
        batches = order[: self.num_samples].split(self.batch_size)[start:]
        return tuple(batch[self.rank :: self.world] for batch in batches)


Mix = Callable[[Batch, int, int], Batch]  # of the batch of an epoch and number


@dataclass(frozen=True)
class Reading:
    """Settings of a loader.

    Args:
        normalise: converts uint8 images to float32.
        augmentation: of single images in training; crops and flips depend on the source.
        mix: augmentation of whole batches, or None.
        device: of the batches.
        workers: processes that read images one by one; 0 reads in this one.
    """

    order: BatchOrder
    normalise: "Normalise"
    augmentation: "Augmentation"
    mix: Mix | None
    device: torch.device
    workers: int


class Source(ABC):
    """Training or validation images of a data set."""

    labels: Any  # a label per image, or (N, H, W), a label per pixel
    fingerprint: Any  # `fingerprint` of these images

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def subset(self, indices: Tensor) -> Self:
        """Return the images of these numbers."""

    @abstractmethod
    def in_three_channels(self) -> Self:
        """Return the grey images, repeated in three channels."""

    @abstractmethod
    def loader(self, reading: Reading) -> "Loader":
        """Return the loader of these images."""


def divided(
    train: Source, val: Source | None, *, name: str, val_split: float | None, seed: int
) -> tuple[Source, Source]:
    """Return training and validation images; without ``val`` hold out ``val_split`` of each class, drawn from ``seed``.

    Raises:
        InputError: ``val`` and ``val_split`` are both given, or neither, or there are too few images to divide.
    """
    if val is not None and val_split is None:
        return train, val
    if val_split is None:
        raise checks.InputError(
            f"{name!r} has no validation images: --val-split 0.2 holds out a fifth of each class for them"
        )
    if val is not None:
        raise checks.InputError(f"{name!r} has validation images of its own: leave val_split out")
    if not 0 < checks.number("val_split", val_split) < 1:
        raise checks.InputError(f"val_split must be above 0 and below 1, got {val_split}")
    labels = torch.as_tensor(train.labels)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        numbers = (labels == label).nonzero().flatten()
        count = min(max(1, round(val_split * len(numbers))), len(numbers) - 1)  # at least one for each part
        held[numbers[torch.randperm(len(numbers), generator=generator(seed, label, 0))[:count]]] = True
    if not held.any():
        raise checks.InputError(f"{name!r} has one image a class: none can be held out for validation")
    return train.subset((~held).nonzero().flatten()), train.subset(held.nonzero().flatten())


class Loader(ABC):
    """Batches of training or validation images, epoch by epoch, on a device."""

    def __init__(self, reading: Reading) -> None:
        self.order, self.normalise, self.device = reading.order, reading.normalise, reading.device
        self._mix = reading.mix
        self._skipped: set[str] = set()

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return len(self.order)

    @property
    def num_samples(self) -> int:
        """Images per epoch, including those that cannot be decoded."""
        return self.order.num_samples

    @property
    def skipped(self) -> list[str]:
        """Paths of the files so far that could not be decoded, sorted."""
        return sorted(self._skipped)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of ``epoch`` from number ``start`` on, without decoding earlier ones.

        A batch without a good image has B = 0, so that callers can count batches.

        Raises:
            InputError: ``start`` is beyond the epoch; while iterating, a file cannot be decoded and bad images are not
                skipped.
        """
        return self._finished(epoch, start, self.order.batches(epoch, start))

    def _finished(self, epoch: int, start: int, numbers: tuple[Tensor, ...]) -> Iterator[Batch]:
        for number, (images, labels) in enumerate(self._batches(epoch, numbers), start):
            batch = Batch(self.normalise(images), labels)
            yield batch if self._mix is None else self._mix(batch, epoch, number)

    @abstractmethod
    def _batches(self, epoch: int, numbers: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (B, C, H, W) uint8 and labels, on the device, for the image numbers of each batch."""


def fingerprint(images: Iterable[tuple[str, int, int]]) -> dict[str, Any]:
    """Return a short fingerprint of a list of images, each (name, label, bytes), for a checkpoint.

    Returns:
        count: number of images; listing: SHA-256 of names and labels in order, on which training depends; bytes: their
        sum, which most changes of a file change.
    """
    digest, count, total = hashlib.sha256(), 0, 0
    for name, label, size in images:
        digest.update(f"{name}\0{label}\n".encode("utf-8", "surrogateescape"))
        count, total = count + 1, total + max(size, 0)
    return {"count": count, "listing": digest.hexdigest(), "bytes": total}
