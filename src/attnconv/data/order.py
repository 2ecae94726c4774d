"""Which images form which batch of which epoch: a function of (seed, epoch), never of what ran before."""

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from attnconv import checks


def seed_of(seed: int, *key: int) -> int:
    """A seed for (seed, *key) that unequal keys, also of unequal length, do not share but by chance.

    numpy's SeedSequence hashes all the words; given as ``spawn_key`` they are set apart from ``seed``, so that
    (1, 2) and (1, 2, 0) differ, which they do not if all are given as entropy.
    """
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)[0])


def generator(seed: int, *key: int) -> torch.Generator:
    """A CPU generator for (seed, *key): on the CPU, so that the numbers are the same on every device."""
    return torch.Generator().manual_seed(seed_of(seed, *key))


class Batch(NamedTuple):
    """What a loader yields: ``images`` (B, C, H, W) float32, normalised; ``labels`` (B,) int64.

    Where images are mixed, ``labels`` are (B, K) float32, the classes' shares of each. Of a set with a label a pixel
    they are (B, H, W) int64.
    """

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class BatchOrder:
    """How ``num_images`` are dealt into batches.

    With a ``seed`` (training): shuffled, and the last, incomplete batch is left out, since batch norm needs more than
    one image. Without (validation): every image once, in order. Of ``world`` processes, number ``rank`` has its part
    of every batch, none of which is another's; all have equally many batches, so that a part may be empty.
    """

    num_images: int
    batch_size: int
    seed: int | None = None
    rank: int = 0
    world: int = 1

    def shard(self, rank: int, world: int) -> "BatchOrder":
        """The part of process ``rank`` of ``world``."""
        return dataclasses.replace(self, rank=rank, world=world)

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-self.num_samples // self.batch_size)

    @property
    def num_samples(self) -> int:
        """Images an epoch."""
        return self.num_images - (self.num_images % self.batch_size if self.seed is not None else 0)

    def batches(self, epoch: int, start: int = 0) -> tuple[Tensor, ...]:
        """The image numbers, (B,) int64, of this process in each batch of ``epoch`` without its first ``start``."""
        checks.integer("epoch", epoch, at_least=0)
        if checks.integer("start", start, at_least=0) > len(self):
            raise checks.InputError(f"start must be at most {len(self)}, the batches of an epoch, got {start}")
        if self.seed is None:
            order = torch.arange(self.num_images)
        else:
            order = torch.randperm(self.num_images, generator=generator(self.seed, epoch))
        batches = order[: self.num_samples].split(self.batch_size)[start:]
        return tuple(batch[self.rank :: self.world] for batch in batches)
