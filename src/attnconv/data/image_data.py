"""A data set ready for training: its sources, and its facts for networks and checkpoints."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attnconv import checks
from attnconv.data.augment import Augmentation, batch_mixer
from attnconv.data.batches import BatchOrder, Loader, Reading, Source, divided
from attnconv.data.files import ItemSource
from attnconv.data.tensors import TensorSource, mean_and_std
from attnconv.data.view import Normalise

PLAIN = Augmentation()


@dataclass(frozen=True, eq=False)
class ImageData:
    """Training and validation images with a class per image or per pixel.

    Args:
        classes: names in the order of the labels.
        channels: 1 or 3.
        image_size: rows, columns in pixels.
        mean: of the training images' values in [0, 1], per channel.
        std: their standard deviation, likewise.
        resize_ratio: see ``view.fit``.
        prepared: True if a Dataset gives preprocessed tensors.
        passed_over: number of files that are not among the images, by reason.
        notes: sentences to print once before training.
    """

    name: str
    classes: tuple[str, ...] = field(repr=False)
    channels: int
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize_ratio: float
    train: Source
    val: Source
    prepared: bool = False
    passed_over: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def dense(self) -> bool:
        """True if each pixel has a label."""
        return isinstance(self.train, TensorSource) and self.train.dense

    def with_channels(self, channels: int) -> "ImageData":
        """Return the data for a network of so many channels: grey images are repeated in three.

        Raises:
            InputError: the images have another number of channels and are not grey.
        """
        if channels == self.channels:
            return self
        if (self.channels, channels) != (1, 3):
            raise checks.InputError(f"{self.name!r} has {self.channels} image channels, the network takes {channels}")
        train, val = self.train.in_three_channels(), self.val.in_three_channels()
        note = f"the network takes 3 channels: the grey images of {self.name!r} are repeated in each"
        return dataclasses.replace(
            self, channels=3, mean=self.mean * 3, std=self.std * 3, train=train, val=val, notes=(*self.notes, note)
        )

    @property
    def num_train(self) -> int:
        """Number of training images."""
        return len(self.train)

    @property
    def num_val(self) -> int:
        """Number of validation images."""
        return len(self.val)

    def loaders(
        self, *, batch_size: int, seed: int, device: torch.device, workers: int, augmentation: Augmentation = PLAIN
    ) -> tuple[Loader, Loader]:
        """Return the training loader and the validation loader."""
        shared: dict[str, Any] = {"batch_size": batch_size, "device": device, "workers": workers}
        return self.train_loader(seed=seed, augmentation=augmentation, **shared), self.val_loader(**shared)

    def train_loader(
        self, *, batch_size: int, seed: int, device: torch.device, workers: int, augmentation: Augmentation = PLAIN
    ) -> Loader:
        """Return the loader of the training images, shuffled and augmented from (seed, epoch).

        Args:
            batch_size: images per batch.
            seed: of order and augmentation.
            device: of the batches, and of all images of a small set.
            workers: processes that decode files; 0 decodes in this one.
            augmentation: beyond crop and flip.
        Raises:
            InputError: a number is out of its range, or the images do not fill one batch.
        """
        checks.integer("batch_size", batch_size, at_least=1)
        checks.integer("seed", seed, at_least=0)
        if batch_size > self.num_train:
            raise checks.InputError(
                f"batch_size must be at most {self.num_train}, the training images of {self.name!r}, got {batch_size}"
            )
        return self._loader(self.train, BatchOrder(self.num_train, batch_size, seed), device, workers, augmentation)

    def val_loader(self, *, batch_size: int, device: torch.device, workers: int) -> Loader:
        """Return the loader of every validation image once, in order; arguments as `train_loader`."""
        checks.integer("batch_size", batch_size, at_least=1)
        return self._loader(self.val, BatchOrder(self.num_val, batch_size), device, workers)

    def _loader(
        self, source: Source, order: BatchOrder, device: torch.device, workers: int, augmentation: Augmentation = PLAIN
    ) -> Loader:
        checks.integer("workers", workers, at_least=0)
        device = torch.device(device)
        mix = batch_mixer(augmentation, seed=order.seed, num_classes=len(self.classes))
        normalise = Normalise(self.mean, self.std, device)
        return source.loader(Reading(order, normalise, augmentation, mix, device, workers))

    def meta(self) -> dict[str, Any]:
        """Return plain values for a checkpoint: for ``prepare_image``, class names, and fingerprints ("images")."""
        return {
            "name": self.name,
            "classes": list(self.classes),
            "channels": self.channels,
            "image_size": list(self.image_size),
            "mean": list(self.mean),
            "std": list(self.std),
            "resize_ratio": self.resize_ratio,
            "images": {"training": self.train.fingerprint, "validation": self.val.fingerprint},
            **{name: True for name in ("dense", "prepared") if getattr(self, name)},
            **({"passed_over": dict(self.passed_over)} if self.passed_over else {}),
        }


def data_of_tensors(name: str, classes: tuple[str, ...], train: TensorSource, val: TensorSource) -> ImageData:
    """Return the data set of these images, which keep their size."""
    rows, columns = train.images.shape[2:]
    mean, std = mean_and_std(train.images)
    return ImageData(
        name=name,
        classes=classes,
        channels=train.images.shape[1],
        image_size=(rows, columns),
        mean=mean,
        std=std,
        resize_ratio=1.0,
        train=train,
        val=val,
    )


def data_of_items(
    name: str,
    classes: Sequence[str],
    sources: Sequence[ItemSource],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    notes: Sequence[str],
    passed_over: Mapping[str, int] | None = None,
) -> ImageData:
    """Return the data set of ``sources``: training images and, unless their options hold some out, validation images.

    Raises:
        InputError: as `divided`.
    """
    train, *rest = sources
    val = rest[0] if rest else None
    if len(classes) == 1:
        notes = [f"{name!r} has one class, {classes[0]!r}: there is nothing to tell apart", *notes]
    parts = divided(train, val, name=name, val_split=train.options.val_split, seed=train.options.seed)
    return ImageData(
        name=name,
        classes=tuple(classes),
        channels=train.channels,
        image_size=train.image_size,
        mean=mean,
        std=std,
        resize_ratio=train.resize_ratio,
        train=parts[0],
        val=parts[1],
        prepared=train.prepared,
        passed_over=dict(passed_over or {}),
        notes=tuple(notes),
    )


def topk(logits: Tensor, classes: Sequence[str], count: int) -> list[tuple[str, float]]:
    """Return names and probabilities of at most ``count`` most likely classes, from ``logits`` (K,)."""
    likely = logits.float().softmax(-1).topk(min(count, len(classes)))
    return [(classes[int(i)], p) for i, p in zip(likely.indices.tolist(), likely.values.tolist(), strict=True)]
