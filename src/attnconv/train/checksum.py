"""SHA-256 inside the files that it is of, whose formats would let a flipped bit in a weight pass.

A file of torch.save is a zip archive, and has it in the archive's comment. A file that holds texts has it in one of
them, and it is that of the file with BLANK in its place. Other programs read such files as before.
"""

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from attnconv import checks, files

MARK = b"attnconv-sha256:"
SIZE = len(MARK) + 64  # bytes of the comment: the mark and the digest in hexadecimal
END_MARK, END_RECORD = b"PK\5\6", 22  # of the record that ends an archive, just before the comment: mark and bytes
BLOCK = 1 << 20  # bytes read at once
BLANK = "the SHA-256 of the file, in hexadecimal, with these 64 letters.."  # as long as it, and nothing else's text


def append_checksum(file: BinaryIO) -> None:
    """Close the archive in ``file``, open for reading and writing, with the SHA-256 of all bytes before the comment."""
    file.seek(-2, os.SEEK_END)  # the archive's last two bytes: the length of its comment, which torch leaves at 0
    file.write(SIZE.to_bytes(2, "little"))
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]
    file.seek(0, os.SEEK_END)
    file.write(MARK + digest.encode())


def verify_checksum(path: Path) -> bool:
    """Compare the file with its checksum; False for one that torch.save wrote without any, which passes.

    Raises:
        InputError: the bytes are not those that were summed, the checksum itself is cut off or damaged, or it is no
            regular file or a larger one than is read.
        OSError: the file cannot be read.
    """
    with files.opened(path, at_most=files.WEIGHTS) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(-min(size, SIZE + END_RECORD), os.SEEK_END)
        tail = file.read()
        comment = tail[-SIZE:]
        if not comment.startswith(MARK):
            end = tail.rfind(END_MARK)
            if end >= 0 and tail[end + END_RECORD - 2 : end + END_RECORD] != b"\0\0":  # it announces a comment
                raise checks.InputError(f"{path} is cut short or damaged: it has lost its checksum")
            return False
        file.seek(0)
        digest, left = hashlib.sha256(), size - SIZE
        while block := file.read(min(left, BLOCK)):
            digest.update(block)
            left -= len(block)
    if digest.hexdigest().encode() != comment[len(MARK) :]:
        raise _changed(path)
    return True


def sealed(data: bytes) -> bytes:
    """``data``, in which BLANK stands once, with the checksum in its place."""
    assert data.count(BLANK.encode()) == 1
    return data.replace(BLANK.encode(), hashlib.sha256(data).hexdigest().encode())


def verify_seal(path: Path, checksum: str) -> None:
    """Compare a file of `sealed` with the ``checksum`` that stands in it.

    Raises:
        InputError: the bytes are not those that were summed, or there is no checksum.
        OSError: the file cannot be read.
    """
    if len(checksum) != len(BLANK):
        raise _changed(path)
    digest, kept = hashlib.sha256(), b""  # kept: of the blocks before, in which the checksum may begin
    with files.opened(path, at_most=files.WEIGHTS) as file:
        while block := file.read(BLOCK):
            kept = (kept + block).replace(checksum.encode(), BLANK.encode())
            done = max(0, len(kept) - len(BLANK) + 1)
            digest.update(kept[:done])
            kept = kept[done:]
    digest.update(kept)
    if digest.hexdigest() != checksum:
        raise _changed(path)


def _changed(path: Path) -> checks.InputError:
    return checks.InputError(
        f"{path} is damaged or was changed: its contents do not have the checksum that was saved with them"
    )


def ends_whole(path: Path) -> bool:
    """Whether the file ends as an archive does, with or without a checksum: a look at its last bytes alone.

    Raises:
        InputError: it is no regular file.
        OSError: the file cannot be read.
    """
    with files.opened(path) as file:
        file.seek(-min(file.seek(0, os.SEEK_END), SIZE + END_RECORD), os.SEEK_END)
        tail = file.read()
    end = tail.rfind(END_MARK)
    return end >= 0 and len(tail) - end - END_RECORD == int.from_bytes(tail[end + 20 : end + 22], "little")
