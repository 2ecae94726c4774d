"""Image files, decoded and augmented by worker processes as they are needed, and kept in memory if that is asked for.

Letters: B batch, C channels, H rows, W columns, N images of the set.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from attnconv import checks, files
from attnconv.data.augment import drawn_from, image_transforms
from attnconv.data.batches import Loader, Reading, fingerprint, seed_of
from attnconv.data.decode import decode_bytes, read_bytes
from attnconv.data.view import fit
from attnconv.signals import interrupts_held

CHANNELS = 3
KEPT_FREE = 2**29  # bytes: what a run needs beside the images that it keeps
BETWEEN_LOOKS = 100  # images, at the free memory
WORKER_NICENESS = 10  # decoding fills what the threads of a step leave of the cores, and takes nothing from them


class BadImage(NamedTuple):
    """A file that cannot be decoded, and the sentence that says so."""

    path: str
    message: str
    may_skip: bool = True


class BrokenPromiseError(checks.InputError):
    """A Dataset returned something else than it must; no setting leaves that out."""


@dataclass(frozen=True)
class FileOptions:
    """Treatment of image files.

    Args:
        skip_bad_images: leave out files that cannot be decoded instead of stopping at the first.
        presize: validation images as in 2019: shorter side the image size + 32 pixels, else 8/7 of it; then the centre.
        cache_images: keep decoded images in memory, so that each file is decoded once.
        val_split: share of each class that is held out for validation, of images without any for it.
        seed: of the images that are held out.
    """

    skip_bad_images: bool = False
    presize: bool = False
    cache_images: bool = False
    val_split: float | None = None
    seed: int = 0


PLAIN = FileOptions()
Sample = tuple[Tensor, int] | BadImage  # image (C, H, W) uint8 and label


@dataclass(frozen=True, eq=False, kw_only=True)
class ItemSource(ABC):
    """Images that are read one by one, where the loader's workers are; in validation they are cut by ``view.fit``.

    Args:
        labels: one an image.
        image_size: rows, columns that they are cut to.
        channels: of what `item` returns.
        prepared: True if that is float32 as the network takes it: neither cut, varied nor normalised.
    """

    labels: Sequence[int] = field(repr=False)
    image_size: tuple[int, int]
    resize_ratio: float
    options: FileOptions = PLAIN
    channels: int = CHANNELS
    prepared: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def name(self, index: int) -> str:
        """Return what a message calls the image."""

    @abstractmethod
    def item(self, index: int, seed: int) -> tuple[Tensor, int]:
        """Return image (C, H, W) and label; ``seed`` is for what the source itself draws.

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
    """Image files and their labels. ``sizes``: bytes of each when it was listed; -1 where that was not known."""

    paths: Sequence[str] = field(repr=False)
    sizes: Sequence[int] = field(repr=False)

    def subset(self, indices: Tensor) -> "FileSource":
        """Return the images of these numbers."""
        paths, sizes, labels = (
            tuple(values[i] for i in indices.tolist()) for values in (self.paths, self.sizes, self.labels)
        )
        return dataclasses.replace(self, paths=paths, sizes=sizes, labels=labels)

    def name(self, index: int) -> str:
        return self.paths[index]

    def item(self, index: int, seed: int) -> tuple[Tensor, int]:
        return self.decode(index), int(self.labels[index])

    def decode(self, index: int) -> Tensor:
        """Return (C, H, W) uint8; InputError if the file cannot be decoded or has changed since it was listed."""
        path, size = self.paths[index], self.sizes[index]
        data = read_bytes(path)
        if size not in (-1, data.size):
            raise checks.InputError(
                f"image {path} has changed: it has {data.size} bytes, and had {size} when it was listed"
            )
        return decode_bytes(data, CHANNELS, name=path)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """The ``batches.fingerprint`` of these images, the same wherever the folder is."""
        names = ("/".join(path.split(os.sep)[-2:]) for path in self.paths)  # class/file
        return fingerprint(zip(names, self.labels, self.sizes, strict=True))


class ItemLoader(Loader):
    """Batches of images decoded one by one. With workers, only one epoch's iterator can be in use at a time."""

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
            generator=torch.Generator(),  # torch draws its workers' seeds from it, and leaves the run's own alone
        )

    def _batches(self, epoch: int, numbers: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, Tensor]]:
        self._sampler.epoch, self._sampler.batches = epoch, numbers
        # What a signal raises while a process forks, in a hook of logging's, is lost. Later the workers are there, and
        # are waited for, which a signal may end.
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
        # The key is longer than those of what we draw ourselves. Validation images are the same in each epoch.
        drawn = seed_of(0, index) if self.seed is None else seed_of(self.seed, epoch, index, 0, 0)
        try:
            return self.source.item(index, drawn)
        except checks.InputError as error:  # as a value: raised here, torch would wrap it in a page of traceback
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
    """Return (B, C, H, W), (B,) int64, and the files that are missing from them."""
    bad = [sample for sample in samples if isinstance(sample, BadImage)]
    good = [sample for sample in samples if not isinstance(sample, BadImage)]
    images = torch.stack([image for image, _ in good]) if good else torch.empty(0, *shape, dtype=torch.uint8)
    return images, torch.tensor([label for _, label in good], dtype=torch.int64), bad


def forked_workers() -> str:
    """Return the way of starting workers that share decoded images; InputError if the system has none."""
    if "fork" not in multiprocessing.get_all_start_methods():
        raise checks.InputError(
            "on this system workers cannot share decoded images: use --workers 0 or no --cache-images"
        )
    return "fork"


def shield_worker(number: int, *, give_way: bool) -> None:
    """Leave Ctrl-C to the parent, and end at a SIGTERM of the parent's only; for DataLoader's ``worker_init_fn``.

    ``give_way``: run at a lower priority, where the parent computes on the same cores.

    A cluster's scheduler signals all processes of a job at once. The training process saves and leaves then, and needs
    its workers until it has; torch's own workers end at once, which looks to it like a failure.
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
