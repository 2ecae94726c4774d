"""Encoded images, in files of their own or elsewhere, decoded and augmented by worker processes as they are needed.

Letters: B batch, C channels, H rows, W columns.
"""

import contextlib
import dataclasses
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from attnconv import checks, files
from attnconv.data.augment import Augmentation, batch_mixer, drawn_from, image_transforms
from attnconv.data.cache import ImageCache, forked_workers
from attnconv.data.decode import count_pixels, decode_bytes, read_bytes
from attnconv.data.fingerprint import fingerprint
from attnconv.data.order import Batch, BatchOrder, seed_of
from attnconv.data.view import Normalise, fit
from attnconv.data.workers import shield_worker
from attnconv.signals import interrupts_held

CHANNELS = 3


class BadImage(NamedTuple):
    """A file that cannot be decoded, and the sentence that says so."""

    path: str
    message: str


@dataclass(frozen=True)
class FileOptions:
    """How image files are treated.

    Args:
        skip_bad_images: leave out files that cannot be decoded instead of stopping at the first.
        presize: validation images as in 2019: shorter side the image size + 32 pixels, else 8/7 of it; then the centre.
        cache_images: keep decoded images in memory, so that each file is decoded once.
    """

    skip_bad_images: bool = False
    presize: bool = False
    cache_images: bool = False


PLAIN = FileOptions()
Sample = tuple[Tensor, int] | BadImage  # image (C, H, W) uint8 and label


@dataclass(frozen=True, eq=False, kw_only=True)
class EncodedSource(ABC):
    """Images to be decoded, and their labels, cut to ``image_size`` (rows, columns); in validation by ``view.fit``."""

    labels: Sequence[int] | np.ndarray = field(repr=False)
    image_size: tuple[int, int]
    resize_ratio: float
    options: FileOptions = PLAIN

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def subset(self, indices: Tensor) -> Self:
        """The images of these numbers."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Where the image is, as messages and counts of bad images say it."""

    @abstractmethod
    def read(self, index: int) -> np.ndarray:
        """The encoded image, uint8; InputError if it cannot be read or has changed since it was listed."""

    @abstractmethod
    def listing(self) -> Iterator[tuple[str, int]]:
        """Of each image its name within the set, which does not change when the set is moved, and its bytes."""

    @abstractmethod
    def count_pixels(self, index: int) -> int:
        """From the header alone; 0 if that cannot be read."""

    def decode(self, index: int) -> Tensor:
        """(C, H, W) uint8; InputError as `read`, or if it cannot be decoded."""
        return decode_bytes(self.read(index), CHANNELS, name=self.name(index))

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Which images these are: see ``fingerprint.fingerprint``."""
        return fingerprint(
            (name, int(label), size) for (name, size), label in zip(self.listing(), self.labels, strict=True)
        )

    def loader(
        self,
        order: BatchOrder,
        normalise: Normalise,
        *,
        augmentation: Augmentation,
        num_classes: int,
        device: torch.device,
        workers: int,
    ) -> "FileLoader":
        """Batches decoded by ``workers`` processes, or by this one if 0."""
        return FileLoader(
            self,
            order,
            normalise,
            augmentation=augmentation,
            num_classes=num_classes,
            device=device,
            workers=workers,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class FileSource(EncodedSource):
    """Images in files of their own, by class in folders.

    ``sizes``: bytes of each file when it was listed; -1 where that was not known.
    """

    paths: Sequence[str] = field(repr=False)
    sizes: Sequence[int] = field(repr=False)

    def subset(self, indices: Tensor) -> "FileSource":
        """The images of these numbers."""
        paths, sizes, labels = (
            tuple(values[i] for i in indices.tolist()) for values in (self.paths, self.sizes, self.labels)
        )
        return dataclasses.replace(self, paths=paths, sizes=sizes, labels=labels)

    def name(self, index: int) -> str:
        """Its path."""
        return self.paths[index]

    def read(self, index: int) -> np.ndarray:
        """The content of the file; InputError if it cannot be read or has another size than when it was listed."""
        data, size = read_bytes(self.paths[index]), self.sizes[index]
        if size not in (-1, data.size):
            raise checks.InputError(
                f"image {self.paths[index]} has changed: it has {data.size} bytes, and had {size} when it was listed"
            )
        return data

    def count_pixels(self, index: int) -> int:
        """From the header alone; 0 if that cannot be read."""
        with contextlib.suppress(OSError, checks.InputError), files.opened(self.paths[index]) as file:
            return count_pixels(file)
        return 0

    def listing(self) -> Iterator[tuple[str, int]]:
        """class/file and bytes."""
        for path, size in zip(self.paths, self.sizes, strict=True):
            folder, file = os.path.split(path)
            yield f"{os.path.basename(folder)}/{file}", size


class FileLoader:
    """Batches of an ``EncodedSource``. With workers, only one epoch's iterator can be in use at a time."""

    def __init__(
        self,
        source: EncodedSource,
        order: BatchOrder,
        normalise: Normalise,
        *,
        augmentation: Augmentation,
        num_classes: int,
        device: torch.device,
        workers: int,
    ) -> None:
        self.order, self.normalise, self.device = order, normalise, device
        self.skip_bad_images = source.options.skip_bad_images
        self._skipped: set[str] = set()
        self._forked = False
        self._mix = batch_mixer(augmentation, seed=order.seed, num_classes=num_classes)
        self._sampler = _Sampler()
        self._loader = DataLoader(
            _Decoder(source, order.seed, augmentation, normalise.colour),
            multiprocessing_context=forked_workers() if source.options.cache_images and workers else None,
            batch_sampler=self._sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=shield_worker if workers else None,
            collate_fn=partial(_collate, image_size=source.image_size),
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # torch draws its workers' seeds from it, and leaves the run's own alone
        )

    def __len__(self) -> int:
        return len(self.order)

    @property
    def num_samples(self) -> int:
        """Images an epoch, those that cannot be decoded among them."""
        return self.order.num_samples

    @property
    def skipped(self) -> list[str]:
        """Paths of the files met so far that could not be decoded, sorted."""
        return sorted(self._skipped)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of ``epoch`` from number ``start`` on; earlier ones are not decoded.

        A batch without a single good image comes with B = 0, so that whoever counts batches counts it too.

        Raises:
            InputError: while iterating, if a file cannot be decoded and bad images are not to be skipped.
        """
        return self._batches(epoch, start, self.order.batches(epoch, start))

    def _batches(self, epoch: int, start: int, batches: tuple[Tensor, ...]) -> Iterator[Batch]:
        self._sampler.epoch, self._sampler.batches = epoch, batches
        # What a signal raises while a process forks, in a hook of logging's, is lost. Later the workers are there, and
        # are waited for, which a signal may end.
        with contextlib.nullcontext() if self._forked else interrupts_held():
            decoded = iter(self._loader)
            self._forked = True
        for number, (images, labels, bad) in enumerate(decoded, start):
            if bad and not self.skip_bad_images:
                raise checks.InputError(f"{bad[0].message}; --skip-bad-images leaves such files out")
            self._skipped.update(file.path for file in bad)
            images, labels = (t.to(self.device, non_blocking=True) for t in (images, labels))
            batch = Batch(self.normalise(images), labels)
            yield batch if self._mix is None else self._mix(batch, epoch, number)


class _Sampler:
    """Tells the workers, image by image, the epoch too: those that persist hear of it in no other way."""

    def __init__(self) -> None:
        self.epoch = 0
        self.batches: tuple[Tensor, ...] = ()

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        for indices in self.batches:
            yield [(epoch, index) for index in indices.tolist()]


class _Decoder(Dataset):
    """(epoch, index) -> the image as training (``seed`` given) or validation sees it, but for normalisation."""

    def __init__(
        self, source: EncodedSource, seed: int | None, augmentation: Augmentation, colour: tuple[int, ...]
    ) -> None:
        v2 = checks.require("torchvision.transforms.v2", extra="train")
        self.source, self.seed = source, seed
        self.cache: ImageCache | None = None
        if source.options.cache_images:
            self.cache = ImageCache([CHANNELS * source.count_pixels(i) for i in range(len(source))], CHANNELS)
        self.augment = v2.Compose(
            [
                v2.RandomResizedCrop(source.image_size, scale=(augmentation.crop_scale, 1.0), antialias=True),
                v2.RandomHorizontalFlip(),
                *image_transforms(augmentation, colour),
            ]
        )

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        label = int(self.source.labels[index])
        try:
            image = self._decoded(index)
        except checks.InputError as error:  # as a value: raised here, torch would wrap it in a page of traceback
            return BadImage(self.source.name(index), str(error))
        if self.seed is None:
            return fit(image, self.source.image_size, self.source.resize_ratio), label
        with drawn_from(seed_of(self.seed, epoch, index)):
            return self.augment(image), label

    def _decoded(self, index: int) -> Tensor:
        image = None if self.cache is None else self.cache.get(index)
        if image is None:
            image = self.source.decode(index)
            if self.cache is not None:
                self.cache.put(index, image)
        return image


def _collate(samples: list[Sample], image_size: tuple[int, int]) -> tuple[Tensor, Tensor, list[BadImage]]:
    """(B, C, H, W) uint8, (B,) int64, and the files that are missing from them."""
    bad = [sample for sample in samples if isinstance(sample, BadImage)]
    good = [sample for sample in samples if not isinstance(sample, BadImage)]
    empty = torch.empty(0, CHANNELS, *image_size, dtype=torch.uint8)
    images = torch.stack([image for image, _ in good]) if good else empty
    return images, torch.tensor([label for _, label in good], dtype=torch.int64), bad
