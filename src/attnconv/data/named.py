"""The small sets that are known by name: digits from scikit-learn, CIFAR and MNIST through torchvision.

Letters: N images, C channels, H rows, W columns.
"""

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnconv import checks, files
from attnconv.data.image_data import ImageData
from attnconv.data.tensors import TensorSource
from attnconv.data.view import fit

Images = tuple[Tensor, Tensor]  # (N, C, H, W) uint8, (N,) int64


@dataclass(frozen=True)
class NamedSet:
    """How a set is augmented, and what torchvision calls it (digits, which it lacks: None)."""

    pad: int  # black pixels around the image, at its own size
    flip: bool  # whether a mirrored image is still of its class
    torchvision_name: str | None


SMALL_SETS = {
    "digits": NamedSet(pad=1, flip=False, torchvision_name=None),
    "cifar10": NamedSet(pad=4, flip=True, torchvision_name="CIFAR10"),
    "cifar100": NamedSet(pad=4, flip=True, torchvision_name="CIFAR100"),
    "mnist": NamedSet(pad=2, flip=False, torchvision_name="MNIST"),
    "fashion-mnist": NamedSet(pad=2, flip=True, torchvision_name="FashionMNIST"),
}


def load_named(name: str, *, data_dir: Path, image_size: int | None) -> ImageData:
    """The set ``name`` of ``SMALL_SETS``, downloaded to ``data_dir`` if it is not there.

    Memory: N * C * image_size ** 2 bytes.

    Raises:
        InputError: the set cannot be read or downloaded.
    """
    known = SMALL_SETS[name]
    if known.torchvision_name is None:
        train, val, classes = _read_digits()
    else:
        train, val, classes = _read_torchvision(name, known.torchvision_name, data_dir)
    own_size = train[0].shape[-1]
    size = image_size or own_size
    train, val = ((_resized(images, size), labels) for images, labels in (train, val))
    mean, std = mean_and_std(train[0])
    return ImageData(
        name=name,
        classes=classes,
        channels=train[0].shape[1],
        image_size=(size, size),
        mean=mean,
        std=std,
        resize_ratio=1.0,
        train=TensorSource(*train, pad=max(1, round(known.pad * size / own_size)), flip=known.flip),
        val=TensorSource(*val),
    )


def _read_digits() -> tuple[Images, Images, tuple[str, ...]]:
    """1,797 images of 8 x 8 with values 0..16, of which a fixed fifth, alike in every class, is for validation."""
    datasets = checks.require("sklearn.datasets", extra="train")
    selection = checks.require("sklearn.model_selection", extra="train")

    digits = datasets.load_digits()
    images = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8).unsqueeze(1)  # (N, 1, 8, 8)
    labels = torch.from_numpy(digits.target).to(torch.int64)
    numbers = selection.train_test_split(range(len(labels)), test_size=0.2, random_state=0, stratify=digits.target)
    train, val = (torch.tensor(part) for part in numbers)
    return (images[train], labels[train]), (images[val], labels[val]), tuple(str(digit) for digit in range(10))


def _read_torchvision(name: str, torchvision_name: str, folder: Path) -> tuple[Images, Images, tuple[str, ...]]:
    kind = getattr(checks.require("torchvision.datasets", extra="train"), torchvision_name)
    try:
        for file in (folder / getattr(kind, "base_folder", f"{torchvision_name}/raw")).glob("*"):
            files.require(file)
        # stdout belongs to what the command line answers; torchvision's progress bar writes to stderr by itself.
        with contextlib.redirect_stdout(sys.stderr):
            parts = [kind(folder, train=train, download=True) for train in (True, False)]  # if they are not there
        train, val = ((_as_images(part.data), torch.as_tensor(part.targets)) for part in parts)
    # No network, no room, no permission, a wrong checksum, a file cut off: each raises something else.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, OSError):  # which says itself what the system refused
            reason += "; if files there are damaged, delete them"
        raise checks.InputError(f"cannot read or download data set {name!r} in {folder}: {reason}") from error
    return train, val, tuple(parts[0].classes)


def _as_images(data: Any) -> Tensor:
    """torchvision's (N, H, W, 3) array or (N, H, W) tensor -> (N, C, H, W)."""
    images = torch.as_tensor(data)
    return images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


def _resized(images: Tensor, size: int) -> Tensor:
    """A few thousand at a time, since on some processors the resizing goes through float32, four times the size."""
    if images.shape[-1] == size:
        return images
    return torch.cat([fit(part, (size, size), 1.0) for part in images.split(4096)])


def mean_and_std(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of each channel's values in [0, 1], in float64; from counts of the 256 values, so that no float copy is made."""
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([torch.bincount(c.flatten(), minlength=256) for c in images.unbind(1)])  # (C, 256)
    shares = counts / counts.sum(1, keepdim=True, dtype=torch.float64)
    mean = shares @ values  # (C,)
    std = (shares * (values - mean.unsqueeze(1)).square()).sum(1).sqrt()
    return tuple(mean.tolist()), tuple(s or 1.0 for s in std.tolist())  # images of one colour: nothing to divide by
