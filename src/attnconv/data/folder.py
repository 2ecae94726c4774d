"""Folders of images: train/<class>/* and val/<class>/*, under the usual names, or <class>/* alone.

Files that are not among the images are counted by reason.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from attnconv import checks, files
from attnconv.data.decode import is_image
from attnconv.data.files import PLAIN, FileOptions, FileSource
from attnconv.data.image_data import ImageData, data_of_items

DEFAULT_SIZE = 128
RESIZE_RATIO = 8 / 7  # validation: shorter side 256 for 224, as is usual
PRESIZE_MARGIN = 32  # pixels more than the image size, as in fastai's presize of 2019

# Files with these suffixes count as images, good or bad; for others the content decides.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"),
    *(".avif", ".jp2"),
)

# ImageNet's, which suit networks trained on it; measuring a folder's own would decode all of it.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Folder names, in any case; the first that exists is taken.
TRAIN = ("train", "training")
VALIDATION = ("val", "valid", "validation", "dev", "eval", "test", "testing")
OF_SYSTEMS = {"__macosx", "@eadir", "thumbs.db", "desktop.ini"}  # and all names that begin with a dot

# Reasons why a file is not among the images.
SYSTEM = "hidden or of the system"
NO_IMAGE = "no image"
UNREADABLE = "cannot be read"
NO_HEIF = "HEIC (pip install pillow-heif)"
NO_CLASS = "in no class folder"
CIRCLE = "link to a folder above it"
DEEPEST = 100  # folders below each other
UNUSED = "in {}/, which is not used"

Image = tuple[str, int]  # path and bytes of a file
Labelled = tuple[str, int, int]  # and its label


def load_folder(folder: Path, *, image_size: int | tuple[int, int] | None, options: FileOptions = PLAIN) -> ImageData:
    """Load the images under ``folder``; classes are its sub-folders, sorted by name.

    Raises:
        InputError: the layout is none of docs/data.md, or does not agree with ``options.val_split``.
    """
    try:
        return _load(folder, image_size, options)
    except OSError as error:
        raise checks.InputError(f"cannot read folder {error.filename}: {error.strerror}") from error


def _load(folder: Path, image_size: int | tuple[int, int] | None, options: FileOptions) -> ImageData:
    passed: Counter[str] = Counter()
    layout = f"expected {folder}/train/<class>/* and {folder}/val/<class>/*"
    train_folder, val_folder = _parts(folder, layout, options, passed)
    train = _classes(train_folder, layout, passed)
    if empty := [name for name, images in train.items() if not images]:
        raise checks.InputError(f"class folder {train_folder / empty[0]} holds no image{_beside(passed)}")
    val = None
    if val_folder is not None:
        val = {name: images for name, images in _classes(val_folder, layout, passed).items() if images}
        if unknown := sorted(set(val) - set(train)):
            raise checks.InputError(f"{val_folder} has classes that {train_folder.name} lacks: {', '.join(unknown)}")
        if not val:
            raise checks.InputError(f"folder {val_folder} holds no image{_beside(passed)}")
    labels = {name: label for label, name in enumerate(train)}

    def labelled(images: Mapping[str, list[Image]]) -> list[Labelled]:
        return [(*image, labels[name]) for name, found in images.items() for image in found]

    return data_of_files(
        folder.resolve().name,
        tuple(train),
        labelled(train),
        None if val is None else labelled(val),
        image_size=image_size,
        options=options,
        passed=passed,
    )


def data_of_files(
    name: str,
    classes: tuple[str, ...],
    train: Sequence[Labelled],
    val: Sequence[Labelled] | None,
    *,
    image_size: int | tuple[int, int] | None,
    options: FileOptions,
    passed: Mapping[str, int],
) -> ImageData:
    """Return the data set of these files; InputError if ``options.val_split`` cannot divide it."""
    size = checks.rows_columns("image_size", image_size or DEFAULT_SIZE)
    ratio = (max(size) + PRESIZE_MARGIN) / max(size) if options.presize else RESIZE_RATIO

    def source(found: Sequence[Labelled]) -> FileSource:
        paths, sizes, labels = zip(*found, strict=True)
        return FileSource(paths=paths, sizes=sizes, labels=labels, image_size=size, resize_ratio=ratio, options=options)

    sources = [source(found) for found in (train, val) if found]
    notes = [passed_over_line(passed)] if passed else []
    return data_of_items(name, classes, sources, mean=MEAN, std=STD, notes=notes, passed_over=passed)


def passed_over_line(passed: Mapping[str, int]) -> str:
    """Return a note that counts the files that are not among the images."""
    total = sum(passed.values())
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(passed.items()))
    return f"{total} file{'s' * (total != 1)} passed over: {reasons}"


def _beside(passed: Mapping[str, int]) -> str:
    return f"; {passed_over_line(passed)}" if passed else ""


def images_below(folder: Path, passed: Counter[str]) -> list[Image]:
    """Return the images below ``folder``, sorted by path; other files are counted in ``passed``."""
    return sorted(_walk(folder, passed, ()))


def _walk(folder: Path, passed: Counter[str], above: tuple[tuple[int, int], ...]) -> list[Image]:
    found: list[Image] = []
    status = os.stat(folder)
    if (here := (status.st_dev, status.st_ino)) in above:
        passed[CIRCLE] += 1
        return found
    if len(above) == DEEPEST:
        raise checks.InputError(f"folder {folder} lies more than {DEEPEST} folders deep")
    with os.scandir(folder) as entries:
        for entry in entries:
            if _of_system(entry.name):
                passed[SYSTEM] += _count(entry)
            elif entry.is_dir():
                found += _walk(folder / entry.name, passed, (*above, here))
            elif reason := why_no_image(entry.path):
                passed[reason] += 1
            else:
                found.append((str(folder / entry.name), _size(entry)))
    return found


def why_no_image(path: str) -> str | None:
    """Return why the file at ``path`` is no image; None if its name or its content says that it is one."""
    if path.lower().endswith(SUFFIXES):
        return None
    try:
        with files.opened(path) as file:
            if is_image(file):
                return None
    except (OSError, checks.InputError):
        return UNREADABLE
    return NO_HEIF if path.lower().endswith((".heic", ".heif")) else NO_IMAGE


def is_dataset_folder(folder: Path) -> bool:
    """True if ``save_to_disk`` of Hugging Face's datasets wrote ``folder``."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def _parts(folder: Path, layout: str, options: FileOptions, passed: Counter[str]) -> tuple[Path, Path | None]:
    """Return the folders of the training and the validation classes; None for a split to be held out."""
    inside = _folders(folder)
    train, val = _named(inside, TRAIN), _named(inside, VALIDATION)
    if train is None:
        if any(folder.glob("*.tar")):
            raise checks.InputError(
                f"folder {folder} holds tar files, which are not read: docs/data.md shows how webdataset makes "
                "a folder of images of them"
            )
        if len(inside) == 1 and _named(_folders(folder / inside[0]), TRAIN):
            raise checks.InputError(
                f"folder {folder} has no train/, and {folder / inside[0]} has: it lies one level deeper, give that"
            )
        if val is not None or options.val_split is None or not inside:
            or_split = "" if val else f", or {folder}/<class>/* and --val-split 0.2"
            raise checks.InputError(f"folder {folder} has no train/; {layout}{or_split}")
        return folder, None
    if val is None and options.val_split is None:
        raise checks.InputError(
            f"folder {folder} has no val/; {layout}, or --val-split 0.2 to hold out a fifth of each class"
        )
    _count_unused(folder, passed, used=(train, val))
    passed += Counter()  # without folders that hold nothing
    return folder / train, None if val is None else folder / val


def _classes(folder: Path, layout: str, passed: Counter[str]) -> dict[str, list[Image]]:
    """Return class name -> its images, both sorted."""
    names = _folders(folder)
    if not names:
        loose = sum(not why_no_image(entry.path) for entry in os.scandir(folder) if entry.is_file())
        there = f" but {loose} image{'s' * (loose != 1)}" if loose else ""
        raise checks.InputError(f"folder {folder} holds no class folder{there}; {layout}")
    if len(names) == 1 and (deeper := _folders(folder / names[0])) and not _files(folder / names[0]):
        raise checks.InputError(
            f"folder {folder} contains only {names[0]}/, which contains no image and {len(deeper)} "
            f"folder{'s' * (len(deeper) != 1)}: if these are the classes, they lie one level too deep; move them up"
        )
    _count_unused(folder, passed, used=names)
    return {name: images_below(folder / name, passed) for name in names}


def _count_unused(folder: Path, passed: Counter[str], *, used: Sequence[str | None]) -> None:
    """Count in ``passed`` the files in ``folder`` outside the ``used`` folders."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if _of_system(entry.name):
                passed[SYSTEM] += _count(entry)
            elif not entry.is_dir():
                passed[why_no_image(entry.path) or NO_CLASS] += 1
            elif entry.name not in used:
                passed[UNUSED.format(entry.name)] += _count(entry)


def _folders(folder: Path) -> list[str]:
    """Return the names of the folders in ``folder`` except those of systems, sorted."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if not _of_system(e.name) and e.is_dir())


def _files(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(not e.is_dir() and not _of_system(e.name) and not why_no_image(e.path) for e in entries)


def _named(inside: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the folder of ``inside`` that has the first possible of ``names``, in any case."""
    return next((found for name in names for found in inside if found.casefold() == name), None)


def _of_system(name: str) -> bool:
    return name.startswith(".") or name.casefold() in OF_SYSTEMS


def _count(entry: os.DirEntry[str]) -> int:
    """Return the files below ``entry``, or 1 if it is one."""
    if not entry.is_dir(follow_symlinks=False):
        return 1
    return sum(len(names) for _, _, names in os.walk(entry.path))


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # such as a broken link, which is reported when it is read
        return -1
