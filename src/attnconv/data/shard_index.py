"""The index of a folder of shards: where each image is, so that they can be read in any order.

index.json holds the classes' names, of each shard its images and bytes, and the checksum of index.npy, which has a row
for each image. The order of the images is that of their keys, and of the shards where keys are equal.
"""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from attnconv import checks, files
from attnconv.data.shard_scan import Member, scan
from attnconv.files import replacing

FORMAT = 1
INDEX, TABLE = "index.json", "index.npy"
PARTS = ("train", "val")

Item = TypeVar("Item")


class Tracked(Protocol):
    """Yields ``items`` one by one, and may show how far it is."""

    def __call__(self, items: Iterable[Item], *, total: int, text: str) -> Iterator[Item]: ...


def untracked(items: Iterable[Item], *, total: int, text: str) -> Iterator[Item]:
    """Shows nothing."""
    yield from items


@dataclass(frozen=True)
class Shard:
    """A tar file of the folder: its name, images in it, and bytes of all of it."""

    name: str
    images: int
    bytes: int


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """All shards of a folder, and their images as structured arrays.

    Fields of ``train`` and ``val``: shard, its number in ``shards``; offset and size, bytes; label; crc, CRC-32 of the
    bytes; name, in the tar file.
    """

    classes: tuple[str, ...]
    shards: tuple[Shard, ...]
    train: np.ndarray = field(repr=False)
    val: np.ndarray = field(repr=False)


def shard_names(folder: Path) -> dict[str, list[str]]:
    """Of each of ``PARTS`` its tar files in ``folder``, sorted; InputError if it cannot be read."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError as error:
        raise checks.InputError(f"cannot read folder {folder}: {error.strerror or error}") from error
    return {part: [name for name in names if name.startswith(f"{part}-") and name.endswith(".tar")] for part in PARTS}


def is_shard_folder(folder: Path) -> bool:
    """Whether ``folder`` holds shards or an index, and no train/."""
    return not (folder / "train").is_dir() and ((folder / INDEX).exists() or any(shard_names(folder).values()))


def open_index(folder: Path) -> ShardIndex:
    """The index in ``folder``; made, and kept there if that can be written, if there is none.

    Raises:
        InputError: it is damaged or not of these shards, or what `make_index` refuses.
    """
    if not (folder / INDEX).exists():
        index = make_index(folder)
        with contextlib.suppress(checks.InputError):  # a folder that is there to be read only
            save_index(index, folder)
        return index
    index = _read(folder)
    _require_same_shards(index.shards, folder)
    _require_labels(index, folder)
    return index


def make_index(folder: Path, *, classes: Sequence[str] | None = None, tracked: Tracked = untracked) -> ShardIndex:
    """Read all shards of ``folder`` and say what is in them; nothing is written.

    Args:
        classes: their names; the numbers as text if None.
    Raises:
        InputError: there are no shards, one cannot be read, or labels do not fit the classes, or leave one out.
    """
    names = shard_names(folder)
    for part in PARTS:
        if not names[part]:
            raise checks.InputError(f"folder {folder} has no {part}-*.tar; expected train-*.tar and val-*.tar")
    all_names = [name for part in PARTS for name in names[part]]
    shards, found = [], []
    for name in tracked(all_names, total=len(all_names), text="indexing"):
        found.append(scan(folder / name))
        shards.append(Shard(name, len(found[-1]), os.path.getsize(folder / name)))
    first_val = len(names["train"])
    train, val = _table(found[:first_val], 0), _table(found[first_val:], first_val)
    if classes is None:
        classes = [str(number) for number in _require_all_numbers(np.unique(train["label"]), folder).tolist()]
    index = ShardIndex(tuple(classes), tuple(shards), train, val)
    _require_labels(index, folder)
    return index


def save_index(index: ShardIndex, folder: Path) -> None:
    """Write index.npy and index.json; InputError if that cannot be done."""
    table = io.BytesIO()
    width = max(index.train.dtype["name"].itemsize, index.val.dtype["name"].itemsize)
    np.save(table, np.concatenate([part.astype(_row(width)) for part in (index.train, index.val)]))
    described = {
        "format": FORMAT,
        "classes": list(index.classes),
        "shards": {shard.name: {"images": shard.images, "bytes": shard.bytes} for shard in index.shards},
        "table": f"sha256:{hashlib.sha256(table.getvalue()).hexdigest()}",
    }
    text = json.dumps(described, indent=1) + "\n"  # in ASCII: a class may be called by bytes that are not UTF-8
    for name, content in ((TABLE, table.getvalue()), (INDEX, text.encode())):
        with replacing(folder / name) as file:
            file.write(content)


def named_classes(folder: Path) -> tuple[str, ...] | None:
    """The classes' names in index.json, whatever else is wrong with it; None if they cannot be read."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return _classes(checks.from_json(files.read_text(folder / INDEX, at_most=files.TABLE)))
    return None


def _row(width: int) -> np.dtype:
    numbers = [("shard", "<i4"), ("offset", "<i8"), ("size", "<i8"), ("label", "<i4"), ("crc", "<u4")]
    return np.dtype([*numbers, ("name", f"S{width}")])


def _table(shards: list[list[Member]], first: int) -> np.ndarray:
    """Images of several shards, of which the first has the number ``first``, in their order."""
    pairs = sorted(((member, number) for number, shard in enumerate(shards, first) for member in shard), key=_place)
    names = [member.name.encode("utf-8", "surrogateescape") for member, _ in pairs]
    rows = [(n, m.offset, m.size, m.label, m.crc, name) for (m, n), name in zip(pairs, names, strict=True)]
    return np.array(rows, dtype=_row(max(map(len, names))))


def _place(pair: tuple[Member, int]) -> tuple[str, int]:
    return pair[0].key, pair[1]


def _read(folder: Path) -> ShardIndex:
    path = folder / INDEX
    anew = f"`attnconv shards {folder}` makes it anew"
    try:
        described = checks.from_json(files.read_text(path, at_most=files.TABLE))
        if described["format"] != FORMAT:
            raise checks.InputError(f"{path} is of format {described['format']!r}, this version reads {FORMAT}; {anew}")
        classes = _classes(described)
        shards = tuple(Shard(name, int(s["images"]), int(s["bytes"])) for name, s in described["shards"].items())
        content = files.read_bytes(folder / TABLE, at_most=files.WEIGHTS)
        digest = described["table"]
    except checks.InputError:
        raise
    except OSError as error:
        raise checks.InputError(f"cannot read {error.filename}: {error.strerror}; {anew}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise checks.InputError(f"{path} is damaged ({type(error).__name__}: {error}); {anew}") from error
    if digest != f"sha256:{hashlib.sha256(content).hexdigest()}":
        raise checks.InputError(f"{folder / TABLE} has not the checksum that {INDEX} gives; {anew}")
    table = np.load(io.BytesIO(content), allow_pickle=False)
    train = sum(shard.images for shard in shards if shard.name.startswith("train-"))
    return ShardIndex(classes, shards, table[:train], table[train:])


def _classes(described: dict[str, Any]) -> tuple[str, ...]:
    names = described["classes"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError("classes must be a list of names")
    return tuple(names)


def _require_same_shards(shards: tuple[Shard, ...], folder: Path) -> None:
    there = [name for names in shard_names(folder).values() for name in names]
    anew = f"; `attnconv shards {folder}` makes the index anew"
    if missing := sorted({shard.name for shard in shards} - set(there)):
        raise checks.InputError(f"shard {folder / missing[0]} is missing, {INDEX} names it{anew}")
    if unknown := sorted(set(there) - {shard.name for shard in shards}):
        raise checks.InputError(f"shard {folder / unknown[0]} is not in {INDEX}{anew}")
    for shard in shards:
        if (size := os.path.getsize(folder / shard.name)) != shard.bytes:
            raise checks.InputError(
                f"shard {folder / shard.name} has {size:,} bytes, and {INDEX} says {shard.bytes:,}: it is cut short or "
                f"has changed{anew}"
            )


def _require_all_numbers(labels: np.ndarray, folder: Path) -> np.ndarray:
    if (absent := np.flatnonzero(labels != np.arange(len(labels)))).size:
        raise checks.InputError(
            f"the labels of {folder}/train-*.tar go to {labels[-1]}, but no image has label {absent[0]}; "
            "they must number the classes from 0 on"
        )
    return labels


def _require_labels(index: ShardIndex, folder: Path) -> None:
    for part in (index.train, index.val):
        for row in part[part["label"] >= len(index.classes)][:1]:
            shard, name = index.shards[row["shard"]].name, row["name"].decode("utf-8", "replace")
            raise checks.InputError(
                f"{folder / shard}: {name} is of class {row['label']}, and there are {len(index.classes)}, from 0 on"
            )
