"""A small set that stays on the device as one tensor; crops and flips run on a whole batch at once.

Letters: B batch, C channels, H rows, W columns, N images of the set.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attnconv import checks
from attnconv.data.augment import Augmentation, batch_mixer, drawn_from, image_transforms
from attnconv.data.fingerprint import fingerprint
from attnconv.data.order import Batch, BatchOrder, generator, seed_of
from attnconv.data.view import Normalise


@dataclass(frozen=True, eq=False)
class TensorSource:
    """Images and labels, with the augmentation that suits them in training.

    ``images`` (N, C, H, W) uint8; ``labels`` (N,) int64, or (N, H, W) of a label a pixel; ``pad`` black pixels are
    added on each side before a random crop of the old size; ``flip``: mirror every second image on average. Labels of
    pixels would not move with them, so their images stay as they are.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    pad: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        assert not (self.dense and (self.pad or self.flip))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def dense(self) -> bool:
        """Whether each pixel has a label."""
        return self.labels.ndim == 3

    def subset(self, indices: Tensor) -> "TensorSource":
        """The images of these numbers."""
        return TensorSource(self.images[indices], self.labels[indices], self.pad, self.flip)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Which images these are, by number, since they have no names: see ``fingerprint.fingerprint``."""
        size = self.images[0].numel()
        return fingerprint((str(number), label, size) for number, label in enumerate(self.labels.tolist()))

    def loader(
        self,
        order: BatchOrder,
        normalise: Normalise,
        *,
        augmentation: Augmentation,
        num_classes: int,
        device: torch.device,
        workers: int,
    ) -> "TensorLoader":
        """``workers`` is for sources that decode; there is nothing for them to do here.

        Raises:
            InputError: ``augmentation`` changes images whose pixels have labels.
        """
        if self.dense and order.seed is not None and augmentation.of_tensors:
            raise checks.InputError(
                f"{', '.join(augmentation.of_tensors)} would part the images from their labels, which are one a pixel: "
                "leave it out"
            )
        return TensorLoader(self, order, normalise, augmentation=augmentation, num_classes=num_classes, device=device)


class TensorLoader:
    """Batches of a ``TensorSource``; all of its images move to ``device`` here, and stay (N * C * H * W bytes).

    Crops and flips run on a batch at once; TrivialAugment and erasing, if asked for, image by image.
    """

    def __init__(
        self,
        source: TensorSource,
        order: BatchOrder,
        normalise: Normalise,
        *,
        augmentation: Augmentation,
        num_classes: int,
        device: torch.device,
    ) -> None:
        self.images, self.labels = source.images.to(device), source.labels.to(device)
        self.pad, self.flip = source.pad, source.flip
        self.order, self.normalise, self.device = order, normalise, device
        self._transforms = image_transforms(augmentation, normalise.colour) if order.seed is not None else []
        self._mix = batch_mixer(augmentation, seed=order.seed, num_classes=num_classes)
        self.skipped: list[str] = []  # nothing to decode, so nothing that cannot be

    def __len__(self) -> int:
        return len(self.order)

    @property
    def num_samples(self) -> int:
        """Images an epoch."""
        return self.order.num_samples

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of ``epoch`` from number ``start`` on."""
        return self._batches(epoch, start, self.order.batches(epoch, start))

    def _batches(self, epoch: int, start: int, batches: tuple[Tensor, ...]) -> Iterator[Batch]:
        moves = self._moves(epoch)
        for number, numbers in enumerate(batches, start):
            indices = numbers.to(self.device)
            images = self.images[indices]  # (B, C, H, W)
            if moves is not None:
                images = crop_and_flip(images, moves[indices], self.pad)
            if self._transforms:
                images = torch.stack([self._transformed(x, epoch, i) for x, i in zip(images, numbers, strict=True)])
            batch = Batch(self.normalise(images), self.labels[indices])
            yield batch if self._mix is None else self._mix(batch, epoch, number)

    def _transformed(self, image: Tensor, epoch: int, index: Tensor) -> Tensor:
        assert self.order.seed is not None  # there are transforms in training only
        with drawn_from(seed_of(self.order.seed, epoch, int(index), 1)):
            for transform in self._transforms:
                image = transform(image)
        return image

    def _moves(self, epoch: int) -> Tensor | None:
        """(N, 3) int64: each image's crop offsets (top, left) and whether it is mirrored (0, 1) in ``epoch``.

        Of the whole epoch at once, so that they do not depend on the batch where a run goes on.
        """
        if self.order.seed is None:
            return None
        numbers = generator(self.order.seed, epoch, 0)  # another stream than the order's
        offsets = torch.randint(2 * self.pad + 1, (len(self.labels), 2), generator=numbers)
        flips = torch.randint(2 if self.flip else 1, (len(self.labels), 1), generator=numbers)
        return torch.cat([offsets, flips], dim=1).to(self.device)


def crop_and_flip(images: Tensor, moves: Tensor, pad: int) -> Tensor:
    """Shift each image by its own offsets inside a black frame of ``pad`` pixels, and mirror where asked.

    One gather over flat pixel numbers: 50 times faster on a CPU than indexing with four tensors.

    Shapes: images (B, C, H, W), moves (B, 3) int64: top and left in [0, 2 * pad], flip 0 or 1 -> (B, C, H, W).
    """
    rows, columns = images.shape[-2:]
    top, left, flip = moves.unsqueeze(-1).unbind(1)  # (B, 1) each
    padded = F.pad(images, (pad, pad, pad, pad))  # (B, C, H + 2 * pad, W + 2 * pad)
    row = torch.arange(rows, device=images.device) + top  # (B, H)
    column = torch.arange(columns, device=images.device)
    column = torch.where(flip == 1, columns - 1 - column, column) + left  # (B, W)
    pixel = row.unsqueeze(2) * padded.shape[-1] + column.unsqueeze(1)  # (B, H, W)
    pixel = pixel.flatten(1).unsqueeze(1).expand(-1, images.shape[1], -1)  # (B, C, H * W)
    return padded.flatten(2).gather(2, pixel).view(images.shape)
