"""Tables of image files, CSV or parquet: columns path and label, and optionally split."""

import csv
import io
import os
from collections import Counter
from pathlib import Path
from typing import Any

from attnconv import checks, files
from attnconv.data.files import FileOptions
from attnconv.data.folder import TRAIN, UNUSED, VALIDATION, Labelled, data_of_files
from attnconv.data.image_data import ImageData

SUFFIXES = (".csv", ".tsv", ".parquet")
COLUMNS = ("path", "label", "split")
DELIMITERS = ",;\t"


def load_table(file: Path, *, image_size: int | tuple[int, int] | None, options: FileOptions) -> ImageData:
    """Load the images of ``file``; paths are absolute or relative to its folder.

    Labels are sorted as numbers if all of them are whole numbers, else as words.

    Raises:
        InputError: it cannot be read; a column, a path, a label or an image file is missing; a split has another name
            than those of `load_folder`.
    """
    rows = _read(file)
    if not rows:
        raise checks.InputError(f"{file} has no rows")
    names = sorted({row["label"] for row in rows})
    if all(name.isascii() and name.isdecimal() for name in names):
        names.sort(key=int)
    labels = {name: number for number, name in enumerate(names)}
    parts: dict[str, list[Labelled]] = {}
    missing = []
    for row in rows:
        path = os.path.join(file.parent, row["path"])
        if not os.path.exists(path):
            missing.append(path)
            continue
        split = row.get("split", TRAIN[0]).casefold()
        parts.setdefault(split, []).append((path, os.stat(path).st_size, labels[row["label"]]))
    if missing:
        raise checks.InputError(
            f"{len(missing)} of {len(rows)} files that {file} names are missing, first {missing[0]}"
        )
    for split in parts:
        checks.one_of(f"split in {file}", split, (*TRAIN, *VALIDATION))
    train = next((parts.pop(name) for name in TRAIN if name in parts), None)
    val = next((parts.pop(name) for name in VALIDATION if name in parts), None)
    if train is None:
        raise checks.InputError(f"{file} has no row of split 'train'")
    if val and (unknown := sorted({n for *_, n in val} - {n for *_, n in train})):
        raise checks.InputError(f"{file}: no training image has the label {names[unknown[0]]!r}")
    return data_of_files(
        file.name,
        tuple(names),
        train,
        val,
        image_size=image_size,
        options=options,
        passed=Counter({UNUSED.format(name): len(found) for name, found in parts.items()}),
    )


def _read(file: Path) -> list[dict[str, str]]:
    """Return the rows, each with path, label and, if there is such a column, split."""
    with checks.explained(f"cannot read {file}"):  # OSError, UnicodeDecodeError, csv.Error, pyarrow's own
        header, values = _parquet(file) if file.suffix.lower() == ".parquet" else _csv(file)
    header = [name.strip().casefold() for name in header]
    for name in COLUMNS[:2]:
        if header.count(name) != 1:
            raise checks.InputError(f"{file} must have one column {name!r}; it has {', '.join(header) or 'none'}")
    wanted = [name for name in COLUMNS if name in header]
    rows = []
    for number, value in enumerate(values, 1):
        found = {name: str(v).strip() for name, v in zip(header, value, strict=False) if v is not None}
        row = {name: found.get(name, "") for name in wanted}
        if empty := [name for name in wanted if not row[name]]:
            raise checks.InputError(f"{file}: row {number} has no {empty[0]}")
        rows.append(row)
    return rows


def _csv(file: Path) -> tuple[list[str], list[list[str]]]:
    text = files.read_text(file, at_most=files.TABLE).removeprefix("\ufeff")  # which Excel writes
    first = text.partition("\n")[0]
    rows = csv.reader(io.StringIO(text), delimiter=max(DELIMITERS, key=first.count))
    return next(rows, []), [row for row in rows if any(row)]


def _parquet(file: Path) -> tuple[list[str], list[tuple[Any, ...]]]:
    parquet = checks.require("pyarrow.parquet", extra="hf")
    files.require(file, at_most=files.TABLE)
    table = parquet.read_table(file)
    return table.column_names, list(zip(*(column.to_pylist() for column in table.columns), strict=True))
