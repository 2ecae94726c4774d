"""Files opened for reading if they are regular ones."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from attnconv import checks

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open ``path`` and yield it with its size in bytes.

    Raises:
        InputError: there is no such file, it cannot be opened, or it is a folder, pipe, device or socket, whose reading
            could wait for ever.
    """
    try:
        _require_regular(path, os.stat(path).st_mode)
        # Another program may have put something else there since: that is not waited for.
        file = open(  # noqa: SIM115
            path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
        )
    except FileNotFoundError:
        raise checks.InputError(f"no file {path} to take weights from") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        if isinstance(error, checks.InputError):
            raise
        raise checks.InputError(f"cannot open {str(path)!r}: {checks.first_line(error)}") from error
    with file:
        found = os.fstat(file.fileno())
        _require_regular(path, found.st_mode)
        yield file, found.st_size


def _require_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "something else")
        raise checks.InputError(f"no file {path} to take weights from: it is {kind}")
