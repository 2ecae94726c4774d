"""Files opened for reading if they are regular ones, and parts of them that cannot be read past their end."""

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
LINE = 1 << 16  # bytes of the longest line of text in a pickle


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


class Part:
    """The bytes from ``start`` to ``end`` of ``file``, from which a pickle is read."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._file, self.at, self.end = file, start, end
        file.seek(start)

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, which must be there: nothing is taken for those that are not."""
        if not 0 <= size <= self.end - self.at:
            raise EOFError(f"{size} bytes are announced where {self.end - self.at} are left")
        self.at += size
        return self._file.read(size)

    def readline(self) -> bytes:
        """The next line, its end included."""
        line = self._file.readline(min(LINE, self.end - self.at))
        if not line.endswith(b"\n"):
            raise EOFError("a line without an end")
        self.at += len(line)
        return line
