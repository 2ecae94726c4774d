"""Files of others are opened only if they are regular ones, and read only up to a size.

A FIFO or a socket in the place of a file would be waited for, a device read without end. Links to regular files pass.
"""

import errno
import hashlib
import io
import os
import stat
from pathlib import Path

from attnconv import checks

# Bytes that are read at most: more than any such file has, less than fills a machine's memory unnoticed.
TEXT = 2**24  # configurations, plans, results, lists of classes
TABLE = 2**30  # a row a run, an epoch or a measurement
WEIGHTS = 2**35  # checkpoints and exported networks

KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def require(path: str | Path, *, at_most: int | None = None) -> None:
    """Pass if ``path`` is a regular file of ``at_most`` so many bytes, for whoever has another library open it.

    Raises:
        InputError: it is a FIFO, a socket or a device, or larger.
        OSError: it is not there, a folder, or not to be reached.
    """
    _require(os.stat(path), path, at_most)


def require_if_there(path: str | Path) -> None:
    """`require` what is about to be written to, which may not be there."""
    if os.path.exists(path):
        require(path)


def opened(path: str | Path, *, at_most: int | None = None) -> io.BufferedReader:
    """Open a regular file for reading bytes; arguments and errors as `require`'s.

    What is opened is looked at once more: by then it may be another file than the one that was asked about.
    """
    require(path, at_most=at_most)
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _require(os.fstat(number), path, at_most)
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def read_bytes(path: str | Path, *, at_most: int) -> bytes:
    """Return the content of a regular file; errors as `require`'s."""
    with opened(path, at_most=at_most) as file:
        return file.read()


def read_text(path: str | Path, *, at_most: int = TEXT) -> str:
    """Return the text of a regular file, each of its line ends as one letter; errors as `require`'s.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
    """
    return read_bytes(path, at_most=at_most).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a regular file, in hexadecimal; errors as `require`'s."""
    return digest(path, "sha256", at_most=WEIGHTS)


def digest(path: str | Path, kind: str, *, at_most: int | None = None) -> str:
    """Return the checksum, of a ``kind`` that hashlib knows, of a regular file; errors as `require`'s."""
    with opened(path, at_most=at_most) as file:
        return hashlib.file_digest(file, kind).hexdigest()


def require_memory(what: str, size: int) -> None:
    """Pass if this machine has ``size`` bytes of memory: a sparse file is of any size, and systems promise too much.

    Raises:
        InputError: it has less.
    """
    if "SC_PHYS_PAGES" in os.sysconf_names and size > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        raise checks.InputError(f"{what} has {size} bytes, more than this machine has memory")


def _require(found: os.stat_result, path: str | Path, at_most: int | None) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise checks.InputError(f"{path} is {kind} and no regular file: it is not opened")
    if at_most is not None and found.st_size > at_most:
        raise checks.InputError(
            f"{path} is larger than {at_most // 2**20:,} MiB, the most that is read of such a file: it has "
            f"{found.st_size:,} bytes"
        )
