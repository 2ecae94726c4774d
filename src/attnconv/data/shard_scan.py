"""What a WebDataset shard, a plain tar file, holds: of each image its place, its label and its checksum.

Layout: the members KEY.jpg (or another image suffix) and KEY.cls, the class number as text, form a sample; a key ends
at the first dot of the file's own name, as in WebDataset. Members of other suffixes are passed over.
"""

import re
import tarfile
import zlib
from pathlib import Path
from typing import NamedTuple

from attnconv import checks, files
from attnconv.data.folder import SUFFIXES

IMAGES = tuple(suffix.removeprefix(".") for suffix in SUFFIXES)
LABEL = "cls"
TRAILER = 1024  # zero bytes that end every tar file
META = re.compile(r"__[^/]*__($|/)")  # names that WebDataset passes over


class Member(NamedTuple):
    """An image of a shard: ``name`` in the tar file, ``offset`` and ``size`` in bytes, CRC-32 of the bytes."""

    key: str
    name: str
    offset: int
    size: int
    label: int
    crc: int


def scan(path: Path) -> list[Member]:
    """The images of the shard at ``path``, all of which is read.

    Raises:
        InputError: it is missing, compressed, cut short, damaged or without an image, or a sample lacks its image or
            its label, or has two of them.
    """
    images: dict[str, tuple[str, int, int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with files.opened(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                key, suffix = split_name(member.name)
                if not key or not member.isreg() or suffix not in (*IMAGES, LABEL):
                    continue
                if key in (labels if suffix == LABEL else images):
                    raise checks.InputError(f"{path}: {key!r} has two {'labels' if suffix == LABEL else 'images'}")
                found = tar.extractfile(member)
                assert found is not None  # it is a regular file
                content = found.read()
                if suffix == LABEL:
                    labels[key] = _class_number(content, f"{path}: {member.name}")
                else:
                    images[key] = (member.name, member.offset_data, member.size, zlib.crc32(content))
            file.seek(tar.offset)  # where tarfile saw no further member, for whatever reason
            whole = file.read(TRAILER) == bytes(TRAILER)
    except checks.InputError:
        raise
    except OSError as error:
        raise checks.InputError(f"cannot read shard {path}: {error.strerror or error}") from error
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise checks.InputError(
            f"shard {path} is compressed, cut short, damaged or no tar file: {' '.join(str(error).split())}"
        ) from error
    if not whole:
        raise checks.InputError(f"shard {path} is cut short or damaged after {len(images)} images")
    if not images:
        raise checks.InputError(f"shard {path} holds no image ({', '.join(IMAGES)})")
    for key in images.keys() ^ labels.keys():
        raise checks.InputError(
            f"{path}: {images[key][0]} has no label, {key}.{LABEL}"
            if key in images
            else f"{path}: {key!r} has a label and no image"
        )
    return [Member(key, name, offset, size, labels[key], crc) for key, (name, offset, size, crc) in images.items()]


def split_name(name: str) -> tuple[str, str]:
    """Key and suffix, in small letters, of a member; empty ones if it is no part of a sample."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return ("", "") if not stem or META.match(name) else (folder + slash + stem, suffix.lower())


def _class_number(content: bytes, what: str) -> int:
    text = content[:20].decode("ascii", "replace").strip()
    if not re.fullmatch("[0-9]{1,9}", text):
        raise checks.InputError(f"{what} must hold a class number from 0 on, got {text!r}")
    return int(text)
