"""The sets that are made, not measured: far-pairs, textures and far-context, from a fixed seed and without options.

They show what a network can and cannot see. They are no evidence of how well it does on photographs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from attnconv import checks
from attnconv.data import far_context, far_pairs, textures
from attnconv.data.image_data import ImageData
from attnconv.data.named import mean_and_std
from attnconv.data.tensors import TensorSource


@dataclass(frozen=True)
class GeneratedSet:
    """How a set is made: ``make`` takes "train" or "val" and gives images (N, H, W) and labels (N,) or (N, H, W)."""

    make: Callable[[str], tuple[np.ndarray, np.ndarray]]
    classes: tuple[str, ...]
    size: tuple[int, int]  # rows, columns


GENERATED_SETS = {
    "far-pairs": GeneratedSet(far_pairs.far_pairs, far_pairs.CLASSES, far_pairs.SIZE),
    "textures": GeneratedSet(textures.textures, textures.CLASSES, textures.SIZE),
    "far-context": GeneratedSet(far_context.far_context, far_context.CLASSES, far_context.SIZE),
}


def load_generated(name: str, *, image_size: int | None) -> ImageData:
    """Make the set ``name`` of ``GENERATED_SETS``; a moment, and nothing is written.

    Raises:
        InputError: ``image_size`` is another than the set's own, at which its distances mean something.
    """
    known = GENERATED_SETS[name]
    if image_size is not None and (image_size, image_size) != known.size:
        rows, columns = known.size
        raise checks.InputError(
            f"data set {name!r} is made at {rows} x {columns} pixels: leave image_size out, got {image_size}"
        )
    train, val = (
        (torch.from_numpy(images.astype(np.uint8)).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)))
        for images, labels in (known.make(part) for part in ("train", "val"))
    )
    mean, std = mean_and_std(train[0])
    return ImageData(
        name=name,
        classes=known.classes,
        channels=1,
        image_size=known.size,
        mean=mean,
        std=std,
        resize_ratio=1.0,
        train=TensorSource(*train),
        val=TensorSource(*val),
    )
