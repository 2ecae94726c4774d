"""Load a data set, as ``ImageData``, by name, folder or table."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from attnconv import checks, extensions
from attnconv.data import libraries, table
from attnconv.data.batches import generator
from attnconv.data.dataset import data_of_datasets
from attnconv.data.files import FileOptions
from attnconv.data.folder import is_dataset_folder, load_folder
from attnconv.data.generated import GENERATED_SETS, load_generated
from attnconv.data.image_data import ImageData
from attnconv.data.imagenette import IMAGENETTE_SETS, load_imagenette
from attnconv.data.libraries import HUGGING_FACE, TORCHVISION
from attnconv.data.small_sets import SMALL_SETS, load_small

__all__ = ["DATA_SETS", "load_data", "register_dataset", "require_data"]

DATA_SETS = (*SMALL_SETS, *IMAGENETTE_SETS, *GENERATED_SETS)
DATA_DIR_VARIABLE = "ATTNCONV_DATA"
DEFAULT_DATA_DIR = "~/.cache/attnconv"
ENTRY_POINTS = "attnconv.data"

Load = Callable[..., Any]
_REGISTERED: dict[str, Load] = {}


def register_dataset(name: str, load: Load) -> None:
    """Register a data set under ``name``, for `load_data`, `attnconv train --import MODULE` and studies.

    Args:
        name: of letters, digits and ``._-``.
        load: called as ``load(data_dir=...)``, a Path. It returns training and validation images, map-style Datasets of
            (image, label), and optionally the names of the classes. An image is Pillow's, a uint8 tensor (C, H, W) or
            array (H, W, C), or a float tensor, which counts as preprocessed: neither augmented nor normalised. If the
            validation images are None, val_split holds some out.
    Raises:
        InputError: the name is taken or invalid, or ``load`` is not callable.
    """
    if not callable(load):
        raise checks.InputTypeError(f"load of data set {name!r} must be a function, got {type(load).__name__}")
    extensions.require_free("a data set", name, load, _REGISTERED.get(name), taken=name in DATA_SETS)
    _REGISTERED[name] = load


def require_data(name_or_folder: str) -> None:
    """Raise InputError unless `load_data` knows this name or path; nothing is loaded."""
    name = str(name_or_folder)
    if name.startswith(TORCHVISION):
        checks.one_of("data set of torchvision", name.removeprefix(TORCHVISION), libraries.torchvision_names())
    elif name.startswith(HUGGING_FACE) or is_data_set(name):
        return
    elif (path := Path(os.path.expanduser(name))).is_file():
        if path.suffix.lower() not in table.SUFFIXES:
            raise checks.InputError(
                f"{path} is a file; give a folder, or a table of paths and labels ({', '.join(table.SUFFIXES)})"
            )
    elif not path.is_dir():
        known = (*DATA_SETS, *_REGISTERED, *extensions.offered(ENTRY_POINTS))
        raise checks.InputError(f"{name!r} is neither a data set nor an existing folder; {checks.nearest(name, known)}")


def is_data_set(name: str) -> bool:
    """True for the name of a data set of this package, or of one that is registered or offered by an installed one."""
    return name in DATA_SETS or name in _REGISTERED or name in extensions.offered(ENTRY_POINTS)


def registered(name: str) -> Load | None:
    """Return the loading function registered under ``name`` or offered by an installed package; None without one."""
    if name not in _REGISTERED and (load := extensions.load_offered(ENTRY_POINTS, name)) is not None:
        register_dataset(name, load)
    return _REGISTERED.get(name)


def load_data(
    name_or_folder: str,
    *,
    data_dir: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    train_subset: int | None = None,
    skip_bad_images: bool = False,
    presize: bool = False,
    cache_images: bool = False,
    val_split: float | None = None,
    seed: int = 0,
) -> ImageData:
    """Load a data set by name, a folder of images, or a table of paths and labels; docs/data.md lists them.

    A known name takes precedence over a folder of that name; write ``./name`` for the folder. Processes that may
    download the same set of torchvision should call this one after the other; Imagenette and Imagewoof have a lock.

    Args:
        name_or_folder: a name of ``DATA_SETS`` or `register_dataset`, torchvision:NAME, hf:NAME, or a path.
        data_dir: folder of the named sets, also for downloads. Default: the variable ATTNCONV_DATA, else
            ~/.cache/attnconv.
        image_size: side of square images in pixels, or rows and columns. Default: the set's own, 128 for files.
            Generated sets have no other.
        train_subset: train on this many images, the same ones for every seed.
        presize: resize validation files as in 2019: shorter side ``image_size`` + 32 pixels, then cut the centre.
        cache_images: keep decoded files in memory, H * W * 3 bytes each at their own size.
        skip_bad_images: skip files that cannot be decoded instead of stopping at the first.
        val_split: share of each class to hold out if there are no validation images.
        seed: of the images that are held out.
    Raises:
        InputError: the name or the layout is unknown, the set cannot be read or downloaded, or a number is out of its
            range.
    """
    size = None if image_size is None else checks.prepared_size("image_size", image_size)
    if train_subset is not None:
        checks.integer("train_subset", train_subset, at_least=1)
    options = FileOptions(
        skip_bad_images=skip_bad_images, presize=presize, cache_images=cache_images, val_split=val_split, seed=seed
    )
    require_data(name_or_folder)
    name = str(name_or_folder)
    data_dir = Path(os.path.expanduser(data_dir or os.environ.get(DATA_DIR_VARIABLE) or DEFAULT_DATA_DIR))
    data = _load(name, data_dir, size, options)
    if train_subset is None:
        return data
    if train_subset > data.num_train:
        raise checks.InputError(
            f"train_subset must be at most {data.num_train}, the training images of {data.name!r}, got {train_subset}"
        )
    indices = torch.randperm(data.num_train, generator=generator(0))[:train_subset].sort().values
    return dataclasses.replace(data, train=data.train.subset(indices))


def _load(name: str, data_dir: Path, image_size: tuple[int, int] | None, options: FileOptions) -> ImageData:
    if name in DATA_SETS and options.val_split is not None:
        raise checks.InputError(f"{name!r} has validation images of its own: leave val_split out")
    if name in GENERATED_SETS:
        return load_generated(name, image_size=image_size)
    if name in SMALL_SETS:
        return load_small(name, data_dir=data_dir, image_size=image_size)
    if name in IMAGENETTE_SETS:
        return load_imagenette(name, data_dir=data_dir, image_size=image_size, options=options)
    path = Path(os.path.expanduser(name.removeprefix(HUGGING_FACE)))
    if (load := registered(name)) is not None:
        train, val, classes = _loaded(name, load, data_dir)
    elif name.startswith(TORCHVISION):
        train, val, classes = libraries.load_torchvision(name.removeprefix(TORCHVISION), data_dir)
    elif path.is_dir() and is_dataset_folder(path):
        train, val, classes = libraries.load_hugging_face(str(path), None, saved=True)
        name = path.resolve().name
    elif name.startswith(HUGGING_FACE):
        train, val, classes = libraries.load_hugging_face(name.removeprefix(HUGGING_FACE), data_dir)
    elif path.is_dir():
        return load_folder(path, image_size=image_size, options=options)
    else:
        return table.load_table(path, image_size=image_size, options=options)
    return data_of_datasets(name, train, val, classes=classes, image_size=image_size, options=options)


def _loaded(name: str, load: Load, data_dir: Path) -> libraries.Loaded:
    with extensions.user_code(f"load of data set {name!r} failed"):
        found = load(data_dir=data_dir)
    if not isinstance(found, (tuple, list)) or len(found) not in (2, 3):
        raise checks.InputTypeError(
            f"load of data set {name!r} must return training and validation images, and optionally the names of the "
            f"classes, got {type(found).__name__}"
        )
    train, val, classes = (*found, None)[:3]
    return train, val, None if classes is None else list(classes)
