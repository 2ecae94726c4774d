"""A folder of images, train/<class>/* and val/<class>/*, as data."""

import os
from pathlib import Path

from attnconv import checks
from attnconv.data.files import CHANNELS, PLAIN, FileOptions, FileSource
from attnconv.data.image_data import ImageData

DEFAULT_SIZE = 128
RESIZE_RATIO = 8 / 7  # validation: shorter side 256 for 224, as is usual
PRESIZE_MARGIN = 32  # pixels more than the image size, whatever that is: what fastai's presize did in 2019
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")

# ImageNet's, so that networks trained on it can be taken over; measuring a folder's own would decode all of it.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Image = tuple[str, int]  # path and bytes of a file


def load_folder(folder: Path, *, image_size: int | None, options: FileOptions = PLAIN) -> ImageData:
    """Load the images under ``folder``; a class is named by its folder, and labels follow the names' order.

    Hidden files and folders, and files that do not end as images do, are ignored.

    Raises:
        InputError: the layout is not train/<class>/* and val/<class>/*.
    """
    layout = f"expected {folder}/train/<class>/* and {folder}/val/<class>/*"
    for part in ("train", "val"):
        if not (folder / part).is_dir():
            if any(folder.glob("*.tar")):
                raise checks.InputError(
                    f"folder {folder} holds tar files, which are not read: docs/data.md shows how webdataset makes "
                    "a folder of images of them"
                )
            raise checks.InputError(f"folder {folder} has no {part}/; {layout}")
    try:
        train, val = _class_folders(folder / "train", layout), _class_folders(folder / "val", layout)
    except OSError as error:
        raise checks.InputError(f"cannot read folder {error.filename}: {error.strerror}") from error
    if unknown := sorted(set(val) - set(train)):
        raise checks.InputError(f"{folder}/val has classes that train lacks: {', '.join(unknown)}")
    side = image_size or DEFAULT_SIZE
    ratio = (side + PRESIZE_MARGIN) / side if options.presize else RESIZE_RATIO
    labels = {name: label for label, name in enumerate(train)}

    def source(images: dict[str, list[Image]]) -> FileSource:
        found = [(*image, labels[name]) for name, images_of_class in images.items() for image in images_of_class]
        paths, sizes, numbers = zip(*found, strict=True)
        return FileSource(paths, sizes, numbers, image_size=(side, side), resize_ratio=ratio, options=options)

    return ImageData(
        name=folder.resolve().name,
        classes=tuple(train),
        channels=CHANNELS,
        image_size=(side, side),
        mean=MEAN,
        std=STD,
        resize_ratio=ratio,
        train=source(train),
        val=source(val),
    )


def _class_folders(folder: Path, layout: str) -> dict[str, list[Image]]:
    """Return class name -> its images, both sorted."""
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    if not names:
        raise checks.InputError(f"folder {folder} holds no class folder; {layout}")
    images = {name: _images(folder / name) for name in names}
    if empty := [name for name in names if not images[name]]:
        raise checks.InputError(f"class folder {folder / empty[0]} holds no image ({', '.join(SUFFIXES)})")
    return images


def _images(folder: Path) -> list[Image]:
    with os.scandir(folder) as entries:
        images = (e for e in entries if not e.name.startswith(".") and e.name.lower().endswith(SUFFIXES))
        return sorted((str(folder / image.name), _size(image)) for image in images)


def _size(entry: os.DirEntry) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a link that leads nowhere, say: reading it will tell
        return -1
