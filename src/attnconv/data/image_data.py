"""A data set ready to train on: its sources, and the few facts that a network and a checkpoint need of it."""

from dataclasses import dataclass, field
from typing import Any

import torch

from attnconv import checks
from attnconv.data.augment import Augmentation
from attnconv.data.files import EncodedSource, FileLoader
from attnconv.data.order import BatchOrder
from attnconv.data.tensors import TensorLoader, TensorSource
from attnconv.data.view import Normalise

Loader = TensorLoader | FileLoader
PLAIN = Augmentation()


@dataclass(frozen=True, eq=False)
class ImageData:
    """Training and validation images of one classification task, of images or of their pixels.

    Args:
        classes: their names, in the order of the labels.
        channels: 1 or 3.
        image_size: rows, columns, pixels.
        mean: of the training images' values in [0, 1], one a channel.
        std: their standard deviation, likewise.
        resize_ratio: see ``view.fit``.
    """

    name: str
    classes: tuple[str, ...] = field(repr=False)
    channels: int
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize_ratio: float
    train: TensorSource | EncodedSource
    val: TensorSource | EncodedSource

    @property
    def dense(self) -> bool:
        """Whether each pixel has a label."""
        return isinstance(self.train, TensorSource) and self.train.dense

    @property
    def num_train(self) -> int:
        """Training images."""
        return len(self.train)

    @property
    def num_val(self) -> int:
        """Validation images."""
        return len(self.val)

    def loaders(
        self, *, batch_size: int, seed: int, device: torch.device, workers: int, augmentation: Augmentation = PLAIN
    ) -> tuple[Loader, Loader]:
        """The training loader and the validation loader."""
        return (
            self.train_loader(
                batch_size=batch_size, seed=seed, device=device, workers=workers, augmentation=augmentation
            ),
            self.val_loader(batch_size=batch_size, device=device, workers=workers),
        )

    def train_loader(
        self, *, batch_size: int, seed: int, device: torch.device, workers: int, augmentation: Augmentation = PLAIN
    ) -> Loader:
        """Shuffled and augmented as (seed, epoch) say.

        Args:
            batch_size: images a batch.
            seed: of order and augmentation.
            device: where batches, and the whole of a small set, are put.
            workers: processes that decode files; 0 decodes in this one.
            augmentation: what is done to images beyond the crop and the flip.
        Raises:
            InputError: a number out of its range, or fewer training images than one batch.
        """
        checks.integer("batch_size", batch_size, at_least=1)
        checks.integer("seed", seed, at_least=0)
        if batch_size > self.num_train:
            raise checks.InputError(
                f"batch_size must be at most {self.num_train}, the training images of {self.name!r}, got {batch_size}"
            )
        return self._loader(self.train, BatchOrder(self.num_train, batch_size, seed), device, workers, augmentation)

    def val_loader(self, *, batch_size: int, device: torch.device, workers: int) -> Loader:
        """Every image once, in order; arguments as `train_loader`."""
        checks.integer("batch_size", batch_size, at_least=1)
        return self._loader(self.val, BatchOrder(self.num_val, batch_size), device, workers)

    def _loader(
        self,
        source: TensorSource | EncodedSource,
        order: BatchOrder,
        device: torch.device,
        workers: int,
        augmentation: Augmentation = PLAIN,
    ) -> Loader:
        checks.integer("workers", workers, at_least=0)
        device = torch.device(device)
        return source.loader(
            order,
            Normalise(self.mean, self.std, device),
            augmentation=augmentation,
            num_classes=len(self.classes),
            device=device,
            workers=workers,
        )

    def meta(self) -> dict[str, Any]:
        """Plain values that a checkpoint keeps.

        For ``prepare_image``, for naming what was predicted, and ("images") for noticing other images on resume.
        """
        return {
            "name": self.name,
            "classes": list(self.classes),
            "channels": self.channels,
            "image_size": list(self.image_size),
            "mean": list(self.mean),
            "std": list(self.std),
            "resize_ratio": self.resize_ratio,
            "images": {"training": self.train.fingerprint, "validation": self.val.fingerprint},
            **({"dense": True} if self.dense else {}),
        }
