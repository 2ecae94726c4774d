"""Decoded images kept in memory that all workers share: each file is decoded once in a run, not once an epoch.

Letters: N images of the set, C channels, H rows, W columns.
"""

import contextlib
import mmap
import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from attnconv import checks

KEPT_FREE = 2**29  # bytes: what a run needs beside its images


class ImageCache:
    """Room for N images of known sizes, uint8, filled as they are decoded by whichever process does it.

    Processes share it if they are forked from the one that made it; it cannot be sent to others. All memory is taken
    here, so that a run does not die of it later.

    Args:
        sizes: the most bytes that each image may take; 0 keeps it out.
        channels: C.
    Raises:
        InputError: there is not so much memory.
    """

    def __init__(self, sizes: Sequence[int], channels: int) -> None:
        self.channels = channels
        self._ends = torch.tensor(sizes, dtype=torch.int64).cumsum(0)
        total = int(self._ends[-1])
        free = free_bytes()
        if free is not None and total > free - KEPT_FREE:
            raise checks.InputError(
                f"the decoded images take {total / 1e9:.1f} GB and {max(0, free - KEPT_FREE) / 1e9:.1f} GB of memory "
                "are free for them; leave --cache-images out"
            )
        # Anonymous, since files in /dev/shm, which torch would take, are often limited to a few megabytes.
        self._pixels = torch.frombuffer(_shared(max(1, total)), dtype=torch.uint8)
        self._shapes = torch.frombuffer(_shared(8 * len(sizes)), dtype=torch.int32).view(-1, 2)  # 0, 0 if absent

    def get(self, index: int) -> Tensor | None:
        """(C, H, W) uint8, stored as (H, W, C), not to be changed; None if it is not here."""
        rows, columns = self._shapes[index].tolist()
        if not rows:
            return None
        start = int(self._ends[index - 1]) if index else 0
        pixels = self._pixels[start : start + rows * columns * self.channels]
        return pixels.view(rows, columns, self.channels).permute(2, 0, 1)

    def put(self, index: int, image: Tensor) -> None:
        """Keep ``image`` (C, H, W), if it is no larger than was said."""
        start = int(self._ends[index - 1]) if index else 0
        if image.numel() > int(self._ends[index]) - start:
            return
        self._pixels[start : start + image.numel()] = image.permute(1, 2, 0).reshape(-1)
        self._shapes[index] = torch.tensor(image.shape[1:], dtype=torch.int32)  # last: it says that the pixels are here


def _shared(size: int) -> mmap.mmap:
    flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)
    return mmap.mmap(-1, size, flags=flags)


def forked_workers() -> str:
    """The way of starting workers that share the cache.

    Raises:
        InputError: the system has none.
    """
    if "fork" not in multiprocessing.get_all_start_methods():
        raise checks.InputError(
            "on this system workers cannot share decoded images: use --workers 0 or no --cache-images"
        )
    return "fork"


def free_bytes() -> int | None:
    """Main memory that could be filled; None where the system does not say."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        with contextlib.suppress(OSError, ValueError):  # a container may have less
            group = Path("/sys/fs/cgroup")
            limit = int((group / "memory.max").read_text())
            free = min(free, limit - int((group / "memory.current").read_text()))
        return free
    return None
