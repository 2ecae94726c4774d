"""Image files, decoded and augmented by worker processes, and optionally kept in memory.

Letters: B batch, C channels, H rows, W columns, N images of the set.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from attnconv import checks, files
from attnconv.data.augment import drawn_from, image_transforms
from attnconv.data.batches import Loader, Reading, Source, fingerprint, seed_of
from attnconv.data.decode import decode_bytes, read_bytes
from attnconv.data.view import fit
from attnconv.signals import interrupts_held

CHANNELS = 3
KEPT_FREE = 2**29  # bytes: what a run needs beside the images that it keeps
BETWEEN_LOOKS = 100  # images, at the free memory
WORKER_NICENESS = 10  # on a CPU decoding uses only the time that the threads of a step leave


class BadImage(NamedTuple):
    """A file that cannot be decoded, and the reason."""

    path: str
    message: str
    may_skip: bool = True


class BrokenPromiseError(checks.InputError):
    """A Dataset returned the wrong kind of value; no setting skips that."""


@dataclass(frozen=True)
class FileOptions:
    """Treatment of image files; see ``load_data``."""

    skip_bad_images: bool = False
    presize: bool = False
    cache_images: bool = False
    val_split: float | None = None
    seed: int = 0


PLAIN = FileOptions()
Sample = tuple[Tensor, int] | BadImage  # image (C, H, W) uint8 and label


@dataclass(frozen=True, eq=False, kw_only=True)
class ItemSource(Source):
    """Images that the loader's workers read one by one; in validation ``view.fit`` cuts them.

    Args:
        labels: one per image.
        image_size: rows, columns after the cut.
        channels: of `item`'s images.
        prepared: True if these are preprocessed float32: neither cut, augmented nor normalised.
    """

    labels: Sequence[int] = field(repr=False)
    image_size: tuple[int, int]
    resize_ratio: float
    options: FileOptions = PLAIN
    channels: int = CHANNELS
    prepared: bool = False

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the image's name for messages."""

    @abstractmethod
    def item(self, index: int, seed: int) -> tuple[Tensor, int]:
        """Return image (C, H, W) and label; ``seed`` is for random numbers of the source itself.

        Raises:
            InputError: the image cannot be read.
        """

    def in_three_channels(self) -> Self:
        """Return the grey images, repeated in three channels."""
        return dataclasses.replace(self, channels=3)

    def loader(self, reading: Reading) -> "ItemLoader":
        """Return the loader of these images."""
        return ItemLoader(self, reading)


@dataclass(frozen=True, eq=False, kw_only=True)
class FileSource(ItemSource):
    """Image files and their labels. ``sizes``: bytes of each when it was listed, -1 if unknown."""

    paths: Sequence[str] = field(repr=False)
    sizes: Sequence[int] = field(repr=False)

    def subset(self, indices: Tensor) -> Self:
        paths, sizes, labels = (
            tuple(values[i] for i in indices.tolist()) for values in (self.paths, self.sizes, self.labels)
        )
        return dataclasses.replace(self, paths=paths, sizes=sizes, labels=labels)

    def name(self, index: int) -> str:
        return self.paths[index]

    def item(self, index: int, seed: int) -> tuple[Tensor, int]:
        return self.decode(index), int(self.labels[index])

    def decode(self, index: int) -> Tensor:
        """Return (C, H, W) uint8; InputError if the file cannot be decoded or its size has changed."""
        path, size = self.paths[index], self.sizes[index]
        data = read_bytes(path)
        if size not in (-1, data.size):
            raise checks.InputError(
                f"image {path} has changed: it has {data.size} bytes, and had {size} when it was listed"
            )
        return decode_bytes(data, CHANNELS, name=path)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """The ``batches.fingerprint`` of these images, independent of the folder's place."""
        names = ("/".join(path.split(os.sep)[-2:]) for path in self.paths)  # class/file
        return fingerprint(zip(names, self.labels, self.sizes, strict=True))


class ItemLoader(Loader):
    """Batches of images that are read one by one. With workers only one epoch's iterator can be in use at a time."""

    def __init__(self, source: ItemSource, reading: Reading) -> None:
        super().__init__(reading)
        workers = reading.workers
        self.skip_bad_images = source.options.skip_bad_images
        self._forked = False
        self._sampler = _Sampler()
        self._loader = DataLoader(
            _Decoder(source, reading),
            multiprocessing_context=forked_workers() if source.options.cache_images and workers else None,
            batch_sampler=self._sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=partial(shield_worker, give_way=self.device.type == "cpu") if workers else None,
            collate_fn=partial(_collate, shape=(source.channels, *source.image_size)),
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # of the workers' seeds, so that the run's generator stays as it is
        )

    def _batches(self, epoch: int, numbers: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, Tensor]]:
        self._sampler.epoch, self._sampler.batches = epoch, numbers
        # An exception that a signal raises while a process forks, in a hook of logging, is lost. Later epochs only wait
        # for the workers, which a signal may end.
        with contextlib.nullcontext() if self._forked else interrupts_held():
            decoded = iter(self._loader)
            self._forked = True
        for images, labels, bad in decoded:
            if broken := [file for file in bad if not file.may_skip]:
                raise BrokenPromiseError(broken[0].message)
            if bad and not self.skip_bad_images:
                raise checks.InputError(f"{bad[0].message}; --skip-bad-images leaves such files out")
            self._skipped.update(file.path for file in bad)
            yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)


class _Sampler:
    """Yields (epoch, index) pairs, because persistent workers learn the epoch in no other way."""

    def __init__(self) -> None:
        self.epoch = 0
        self.batches: tuple[Tensor, ...] = ()

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        for indices in self.batches:
            yield [(epoch, index) for index in indices.tolist()]


class _Decoder(Dataset):
    """Dataset by (epoch, index): images as in training (with a seed) or validation, before normalisation."""

    def __init__(self, source: ItemSource, reading: Reading) -> None:
        v2 = checks.require("torchvision.transforms.v2", extra="train")
        self.source, self.seed = source, reading.order.seed
        self.kept = self._decoded() if source.options.cache_images else None
        self.augment = v2.Compose(
            [
                v2.RandomResizedCrop(source.image_size, scale=(reading.augmentation.crop_scale, 1.0), antialias=True),
                v2.RandomHorizontalFlip(),
                *image_transforms(reading.augmentation, reading.normalise.colour),
            ]
        )

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        sample = self._read(epoch, index) if self.kept is None else self.kept[index]
        if isinstance(sample, BadImage) or self.source.prepared:
            return sample
        image, label = sample
        if self.seed is None:
            return fit(image, self.source.image_size, self.source.resize_ratio), label
        with drawn_from(seed_of(self.seed, epoch, index)):
            return self.augment(image), label

    def _read(self, epoch: int, index: int) -> Sample:
        # The key is longer than those of our own random numbers. Validation images are the same in each epoch.
        drawn = seed_of(0, index) if self.seed is None else seed_of(self.seed, epoch, index, 0, 0)
        try:
            return self.source.item(index, drawn)
        except checks.InputError as error:  # torch would wrap an exception in a page of traceback
            return BadImage(self.source.name(index), str(error), not isinstance(error, BrokenPromiseError))

    def _decoded(self) -> list[Sample]:
        """Return all images; InputError if they leave too little memory free."""
        found = []
        for index in range(len(self.source)):
            free = files.free_memory() if index % BETWEEN_LOOKS == 0 else None
            if free is not None and free < KEPT_FREE:
                raise checks.InputError(
                    f"after {index:,} of {len(self.source):,} decoded images {free / 1e9:.1f} GB of memory are free, "
                    f"and a run needs {KEPT_FREE / 1e9:.1f}; leave --cache-images out"
                )
            found.append(self._read(0, index))
        return found


def _collate(samples: list[Sample], shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, list[BadImage]]:
    """Return images (B, C, H, W), labels (B,) int64, and the bad files."""
    bad = [sample for sample in samples if isinstance(sample, BadImage)]
    good = [sample for sample in samples if not isinstance(sample, BadImage)]
    images = torch.stack([image for image, _ in good]) if good else torch.empty(0, *shape, dtype=torch.uint8)
    return images, torch.tensor([label for _, label in good], dtype=torch.int64), bad


def forked_workers() -> str:
    """Return the start method whose workers share decoded images; InputError if the system lacks it."""
    if "fork" not in multiprocessing.get_all_start_methods():
        raise checks.InputError(
            "on this system workers cannot share decoded images: use --workers 0 or no --cache-images"
        )
    return "fork"


def shield_worker(number: int, *, give_way: bool) -> None:
    """Ignore Ctrl-C, and end only at the parent's SIGTERM; for DataLoader's ``worker_init_fn``.

    A cluster's scheduler signals all processes of a job at once. The training process needs its workers until it has
    saved; workers of torch end at once, which looks like a failure.

    Args:
        give_way: run at a lower priority, because the parent computes on the same cores.
    """
    if give_way and hasattr(os, "nice"):  # Windows has none
        os.nice(WORKER_NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # which says who sent it; macOS has none
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
