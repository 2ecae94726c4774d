"""Image files into WebDataset shards: a folder that is there whole, or not at all."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from attnconv import checks, files
from attnconv.data.files import FileSource
from attnconv.data.image_data import ImageData
from attnconv.data.order import generator
from attnconv.data.shard_index import ShardIndex, Tracked, make_index, save_index, untracked
from attnconv.files import replacing

PLAN = "plan.json"


def write_shards(data: ImageData, out: Path, *, images_per_shard: int, tracked: Tracked = untracked) -> ShardIndex:
    """Copy the files of ``data`` into train-*.tar and val-*.tar in the folder ``out``, as they are, with an index.

    A key is an image's number in ``data``, so that the shards are read in the order of the files. Training images lie
    in the shards in an order drawn once and for all, for tools that read shards from front to back.

    All of it is written to ``out``.partial, which then takes the name; after an interruption, the same call goes on
    behind the last shard that was whole.

    Raises:
        InputError: ``out`` holds something, or cannot be written; ``data`` has no files, or one cannot be read; another
            process writes the same shards; webdataset is not installed.
    """
    webdataset = checks.require("webdataset", extra="shards")
    checks.integer("images_per_shard", images_per_shard, at_least=1)
    train, val = data.train, data.val
    if not isinstance(train, FileSource) or not isinstance(val, FileSource):
        raise checks.InputError(f"shards are made of image files, and {data.name!r} has none")
    out = Path(os.path.abspath(out))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise checks.InputError(f"{out} is there already, and shards overwrite nothing; give another --out")
    partial = out.with_name(out.name + ".partial")
    with _held(partial):
        images = data.meta()["images"]
        _begin(partial, {"classes": list(data.classes), "images": images, "images_per_shard": images_per_shard})
        todo = [*_jobs("train", train, images_per_shard), *_jobs("val", val, images_per_shard)]
        for name, source, numbers in tracked(todo, total=len(todo), text="writing"):
            if not (partial / name).exists():
                with replacing(partial / name) as file:
                    _write(file, source, numbers, webdataset)
        index = make_index(partial, classes=data.classes, tracked=tracked)
        save_index(index, partial)
        try:
            (partial / PLAN).unlink()
            if out.exists():
                out.rmdir()
            partial.rename(out)
        except OSError as error:
            raise checks.InputError(f"cannot rename {partial} to {out}: {error.strerror or error}") from error
    return index


def _jobs(part: str, source: FileSource, size: int) -> Iterator[tuple[str, FileSource, list[int]]]:
    """Of each shard its name, and the numbers of its images in ``source``."""
    count = len(source)
    order = torch.randperm(count, generator=generator(0)) if part == "train" else torch.arange(count)
    for number, chosen in enumerate(order.split(size)):
        yield f"{part}-{number:06}.tar", source, chosen.tolist()


def _write(file: Any, source: FileSource, numbers: list[int], webdataset: Any) -> None:
    with webdataset.TarWriter(file, encoder=False, mtime=0) as tar:
        for number in numbers:
            suffix = source.name(number).rpartition(".")[2].lower()
            tar.write(
                {
                    "__key__": f"{number:09}",
                    "jpg" if suffix == "jpeg" else suffix: source.read(number).tobytes(),
                    "cls": str(int(source.labels[number])).encode(),
                }
            )


def _begin(partial: Path, plan: dict[str, Any]) -> None:
    """Make the folder, or see that what it holds is the beginning of the same."""
    path = partial / PLAN
    if not path.exists():
        with replacing(path) as file:
            file.write(json.dumps(plan).encode())
        return
    with contextlib.suppress(OSError, ValueError):
        if checks.from_json(files.read_text(path)) == plan:
            return
    raise checks.InputError(
        f"{partial} holds the beginning of other shards, or of these before images changed: delete it"
    )


@contextlib.contextmanager
def _held(partial: Path) -> Iterator[None]:
    """Make the folder and keep other processes out of it."""
    filelock = checks.require("filelock", extra="train")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock = partial.with_name(partial.name + ".lock")
        with filelock.FileLock(lock, timeout=0):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
    except filelock.Timeout:
        raise checks.InputError(f"another process writes {partial}") from None
    except OSError as error:
        raise checks.InputError(f"cannot write into {partial}: {error.strerror or error}") from error
