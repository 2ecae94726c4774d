"""Data sets and loaders: small sets that stay on the device, and folders of images decoded as they are needed.

`load_data` is the one place where a name or a folder becomes an ``ImageData``.

``torchvision``, ``PIL`` and ``sklearn`` are imported when they are used, so this import costs no more than torch.
"""

import dataclasses
import os
from pathlib import Path

import torch

from attnconv import checks
from attnconv.data.augment import Augmentation
from attnconv.data.batches import Batch, generator
from attnconv.data.decode import decode_image, image_pixels
from attnconv.data.files import FileOptions
from attnconv.data.folder import IMAGENETTE_SETS, load_folder, load_imagenette
from attnconv.data.generated import GENERATED_SETS, load_generated
from attnconv.data.image_data import ImageData
from attnconv.data.small_sets import SMALL_SETS, load_small
from attnconv.data.view import View, prepare_image, view_of

__all__ = [
    "DATA_SETS",
    "Augmentation",
    "Batch",
    "ImageData",
    "View",
    "decode_image",
    "image_pixels",
    "load_data",
    "prepare_image",
    "view_of",
]

DATA_SETS = (*SMALL_SETS, *IMAGENETTE_SETS, *GENERATED_SETS)
DATA_DIR_VARIABLE = "ATTNCONV_DATA"
DEFAULT_DATA_DIR = "~/.cache/attnconv"


def load_data(
    name_or_folder: str,
    *,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    train_subset: int | None = None,
    skip_bad_images: bool = False,
    presize: bool = False,
    cache_images: bool = False,
) -> ImageData:
    """Load a known data set, or a folder with train/<class>/* and val/<class>/*.

    A known name comes before a folder of that name, which ``./name`` means. Several processes that may download the
    same set of torchvision's should call this one after the other; Imagenette and Imagewoof see to that themselves.

    Args:
        name_or_folder: one of ``DATA_SETS``, or a folder's path.
        data_dir: holds or receives the known sets; the variable ATTNCONV_DATA, else ~/.cache/attnconv, if None.
        image_size: side of the square images in pixels; the set's own, or 128 of a folder, if None. Generated sets
            have no other.
        train_subset: train on so many images only, always the same ones whatever the run's seed.
        presize: validation images as in 2019: shorter side ``image_size`` + 32 pixels, then the centre. Of files only.
        cache_images: keep decoded images in memory; of files only. H * W * 3 bytes each, at their files' own size.
        skip_bad_images: leave out files that cannot be decoded instead of stopping at the first.
    Raises:
        InputError: neither a name nor a folder, a folder of another layout, a set that cannot be read or downloaded, or
            a number out of its range.
    """
    if image_size is not None:
        checks.integer("image_size", image_size, at_least=1)
    if train_subset is not None:
        checks.integer("train_subset", train_subset, at_least=1)
    options = FileOptions(skip_bad_images=skip_bad_images, presize=presize, cache_images=cache_images)
    name, folder = str(name_or_folder), Path(os.path.expanduser(name_or_folder))
    if name in GENERATED_SETS:
        data = load_generated(name, image_size=image_size)
    elif name in DATA_SETS:
        data_dir = Path(os.path.expanduser(data_dir or os.environ.get(DATA_DIR_VARIABLE) or DEFAULT_DATA_DIR))
        if name in SMALL_SETS:
            data = load_small(name, data_dir=data_dir, image_size=image_size)
        else:
            data = load_imagenette(name, data_dir=data_dir, image_size=image_size, options=options)
    elif folder.is_dir():
        data = load_folder(folder, image_size=image_size, options=options)
    else:
        raise checks.InputError(
            f"{name!r} is neither a data set nor an existing folder; {checks.nearest(name, DATA_SETS)}"
        )
    return data if train_subset is None else _with_subset(data, train_subset)


def _with_subset(data: ImageData, size: int) -> ImageData:
    if size > data.num_train:
        raise checks.InputError(
            f"train_subset must be at most {data.num_train}, the training images of {data.name!r}, got {size}"
        )
    indices = torch.randperm(data.num_train, generator=generator(0))[:size].sort().values
    return dataclasses.replace(data, train=data.train.subset(indices))
