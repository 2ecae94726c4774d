"""The small sets: digits from scikit-learn, CIFAR and MNIST through torchvision.

Letters: N images, C channels, H rows, W columns.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnconv import checks, files
from attnconv.data.image_data import ImageData, data_of_tensors
from attnconv.data.libraries import load_torchvision
from attnconv.data.tensors import TensorSource
from attnconv.data.view import fit

Images = tuple[Tensor, Tensor]  # (N, C, H, W) uint8, (N,) int64


@dataclass(frozen=True)
class SmallSet:
    """Augmentation of a set, and its name in torchvision, which lacks digits."""

    pad: int  # black pixels around the image, at its own size
    flip: bool  # True if mirroring keeps the class
    torchvision_name: str | None


SMALL_SETS = {
    "digits": SmallSet(pad=1, flip=False, torchvision_name=None),
    "cifar10": SmallSet(pad=4, flip=True, torchvision_name="CIFAR10"),
    "cifar100": SmallSet(pad=4, flip=True, torchvision_name="CIFAR100"),
    "mnist": SmallSet(pad=2, flip=False, torchvision_name="MNIST"),
    "fashion-mnist": SmallSet(pad=2, flip=True, torchvision_name="FashionMNIST"),
}


def load_small(name: str, *, data_dir: Path, image_size: tuple[int, int] | None) -> ImageData:
    """Load the set ``name`` of ``SMALL_SETS``, and download it to ``data_dir`` if it is not there.

    Memory: N * C * H * W bytes.

    Raises:
        InputError: the set cannot be read or downloaded.
    """
    known = SMALL_SETS[name]
    if known.torchvision_name is None:
        train, val, classes = _read_digits()
    else:
        train, val, classes = _read_torchvision(known.torchvision_name, data_dir)
    own_size = train[0].shape[-1]
    size = image_size or (own_size, own_size)
    train, val = ((_resized(images, size), labels) for images, labels in (train, val))
    pad = max(1, round(known.pad * min(size) / own_size))
    return data_of_tensors(name, classes, TensorSource(*train, pad=pad, flip=known.flip), TensorSource(*val))


def _read_digits() -> tuple[Images, Images, tuple[str, ...]]:
    """Read 1,797 images of 8 x 8 with values 0..16; a fixed fifth of each class is for validation."""
    datasets = checks.require("sklearn.datasets", extra="train")
    selection = checks.require("sklearn.model_selection", extra="train")

    digits = datasets.load_digits()
    images = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8).unsqueeze(1)  # (N, 1, 8, 8)
    labels = torch.from_numpy(digits.target).to(torch.int64)
    numbers = selection.train_test_split(range(len(labels)), test_size=0.2, random_state=0, stratify=digits.target)
    train, val = (torch.tensor(part) for part in numbers)
    return (images[train], labels[train]), (images[val], labels[val]), tuple(str(digit) for digit in range(10))


def _read_torchvision(name: str, folder: Path) -> tuple[Images, Images, tuple[str, ...]]:
    kind = getattr(checks.require("torchvision.datasets", extra="train"), name)
    for file in (folder / getattr(kind, "base_folder", f"{name}/raw")).glob("*"):
        files.require(file)
    *parts, _ = load_torchvision(name, folder)
    train, val = ((_as_images(part.data), torch.as_tensor(part.targets)) for part in parts)
    return train, val, tuple(parts[0].classes)


def _as_images(data: Any) -> Tensor:
    """Return torchvision's (N, H, W, 3) array or (N, H, W) tensor as (N, C, H, W)."""
    images = torch.as_tensor(data)
    return images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a few thousand at a time, because some processors do it in float32, four times the size."""
    if tuple(images.shape[-2:]) == size:
        return images
    return torch.cat([fit(part, size, 1.0) for part in images.split(4096)])
