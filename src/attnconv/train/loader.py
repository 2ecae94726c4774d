"""What the training loop asks of a loader of images."""

from collections.abc import Iterable
from typing import Protocol

from torch import Tensor


class Loader(Protocol):
    """Batches of one data set, the same ones whenever the same epoch is asked for.

    ``len(loader)`` is the number of batches an epoch. A batch may be smaller than the others, and
    empty where none of its images can be decoded.
    """

    @property
    def num_samples(self) -> int:
        """Images an epoch."""
        ...

    @property
    def skipped(self) -> list[str]:
        """The files met so far that could not be decoded."""
        ...

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, start: int = 0) -> Iterable[tuple[Tensor, Tensor]]:
        """The batches of ``epoch`` (from 0), without its first ``start``: none where all have come.

        Each is images (B, C, H, W), float32, normalised, and labels (B,), int64, both on the device; where images are
        mixed, labels are the classes' shares (B, K), float32; where each pixel has one, (B, H, W), int64. A batch of
        which no image could be decoded comes with B = 0, for a run that resumes inside the epoch counts batches.
        """
        ...
