"""Data sets of other libraries: torchvision:NAME and hf:NAME, and folders that Hugging Face's datasets saved."""

import contextlib
import inspect
import io
import sys
from pathlib import Path
from typing import Any

from attnconv import checks, files
from attnconv.data.decode import MAX_BYTES, formats
from attnconv.data.folder import TRAIN, VALIDATION

TORCHVISION, HUGGING_FACE = "torchvision:", "hf:"
TRAINING_SPLITS = (*TRAIN, "trainval")
UNPICKLES = "LSUN"  # a file beside its images; so does LSUNClass
Loaded = tuple[Any, Any, list[str] | None]  # training images, validation images or None, names of the classes


def torchvision_names() -> list[str]:
    """Return the names of torchvision's data sets."""
    datasets = checks.require("torchvision.datasets", extra="train")
    kinds = {name: getattr(datasets, name, None) for name in datasets.__all__ if not name.startswith(UNPICKLES)}
    return [name for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, datasets.VisionDataset)]


def load_torchvision(name: str, data_dir: Path) -> Loaded:
    """Load the data set ``name`` of torchvision, and download it to ``data_dir`` if it is not there.

    Raises:
        InputError: there is no such set, it needs more arguments, or it cannot be read or downloaded.
    """
    checks.one_of("data set of torchvision", name, torchvision_names())
    kind = getattr(checks.require("torchvision.datasets", extra="train"), name)
    takes = inspect.signature(kind.__init__).parameters
    given = {option: value for option, value in (("root", str(data_dir)), ("download", True)) if option in takes}

    def first(splits: tuple[str, ...]) -> Any:
        """Return the set of the first of ``splits`` that it has; None if it has none."""
        for split in splits:
            try:
                return kind(**given, split=split)
            except ValueError as error:
                if "split" not in str(error):
                    raise
        return None

    try:
        # stdout is for the command line's answer; progress bars write to stderr.
        with contextlib.redirect_stdout(sys.stderr):
            if "train" in takes:
                return kind(**given, train=True), kind(**given, train=False), None
            if "split" in takes:
                return first(TRAINING_SPLITS), first(VALIDATION), None
            return kind(**given), None, None
    except TypeError as error:  # it needs more arguments
        raise checks.InputError(
            f"torchvision:{name} cannot be made by its name alone: {checks.first_line(error)}; make it in a function "
            "of your own and name that with register_dataset"
        ) from error
    except Exception as error:  # no network, no room, a wrong checksum, a file cut off: each raises something else
        reason = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, OSError):  # which says itself what the system refused
            reason += "; if files there are damaged, delete them"
        raise checks.InputError(f"cannot read or download torchvision:{name} in {data_dir}: {reason}") from error


class Rows:
    """Rows of a Hugging Face Dataset as (image, label); only formats that start no program are opened."""

    def __init__(self, rows: Any, image: str, label: str, names: list[str] | None) -> None:
        self._rows, self._image, self._label = rows, image, label
        values = rows[label]
        number = {name: i for i, name in enumerate(names)} if names else None
        self.targets = [number.get(str(v), -1) for v in values] if number else [int(v) for v in values]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self._rows[index][self._image]
        return (_opened(image) if isinstance(image, dict) else image), self.targets[index]


def _opened(image: dict[str, Any]) -> Any:
    pillow = checks.require("PIL.Image", extra="train")
    content = image.get("bytes")
    if content is None:  # the row names a file
        content = files.read_bytes(image["path"], at_most=MAX_BYTES)
    return pillow.open(io.BytesIO(content), formats=formats())


def load_hugging_face(name_or_folder: str, data_dir: Path | None, *, saved: bool = False) -> Loaded:
    """Load a data set of the Hub, or a folder that ``save_to_disk`` wrote or that holds data files.

    Uses the first column of images, and the column "label" or "labels", or the only one of classes. No code of a data
    set is run.

    Raises:
        InputError: it cannot be loaded, or has no such columns.
    """
    library = checks.require("datasets", extra="hf")
    # No network, no such name, several configurations: each raises something else.
    with checks.explained(f"cannot load hf:{name_or_folder}"), contextlib.redirect_stdout(sys.stderr):
        for path in Path(name_or_folder).rglob("*"):  # none for a name of the Hub
            if path.exists() and not path.is_dir():
                files.require(path)
        if saved:
            found = library.load_from_disk(name_or_folder)
        else:
            found = library.load_dataset(name_or_folder, cache_dir=None if data_dir is None else str(data_dir))
    parts = dict(found) if isinstance(found, dict) else {TRAIN[0]: found}
    train = next((parts[name] for name in TRAIN if name in parts), None)
    val = next((parts[name] for name in VALIDATION if name in parts), None)
    if train is None:
        raise checks.InputError(f"hf:{name_or_folder} has no split 'train'; it has {', '.join(map(str, parts))}")
    image, label = _columns(train.features, library, name_or_folder)
    # Reading a row decodes the images of all its columns, in every format that Pillow knows.
    train = train.select_columns([image, label])
    val = None if val is None else val.select_columns([image, label])
    names = getattr(train.features[label], "names", None)
    values = None
    if not names and not all(type(value) is int for value in train[label]):
        values = sorted({str(value) for part in (train, val) if part is not None for value in part[label]})
    made = []
    for part in (train, val):
        if part is not None and isinstance(part.features[image], library.Image):
            part = part.cast_column(image, library.Image(decode=False))
        made.append(None if part is None else Rows(part, image, label, values))
    return made[0], made[1], names or values


def _holds_media(kind: Any) -> bool:
    """True if ``kind``, of a column, has parts that the library decodes."""
    if isinstance(kind, dict):
        return any(map(_holds_media, kind.values()))
    if isinstance(kind, (list, tuple)):
        return any(map(_holds_media, kind))
    return hasattr(kind, "decode_example") or _holds_media(getattr(kind, "feature", ()))


def _columns(features: Any, library: Any, name: str) -> tuple[str, str]:
    images = [column for column, kind in features.items() if isinstance(kind, library.Image)]
    images += [
        column
        for column in ("image", "img", "pixels")
        if column in features and column not in images and not _holds_media(features[column])
    ]
    classes = [column for column, kind in features.items() if isinstance(kind, library.ClassLabel)]
    labels = [column for column in ("label", "labels") if column in features and not _holds_media(features[column])]
    labels = labels or classes
    if not images or not labels or (len(labels) > 1 and labels == classes):
        raise checks.InputError(
            f"hf:{name} must have a column of images and one called 'label'; it has {', '.join(features)}: make a "
            "Dataset of (image, label) in a function of your own and name that with register_dataset"
        )
    return images[0], labels[0]
