"""Files that are either the old one or the new one, whole, whenever the machine stops.

Each is written under a name of its own, NAME.XXXXXXXX.tmp (eight hexadecimal digits), in the same folder, because only
there is the replacement one step. Two processes that write one file share no such name; what a killed one left is
removed by the next that writes the same file.
"""

import contextlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from attnconv import checks, regular_file

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def replacing(path: Path, *, previous: Path | None = None) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` once the block ends well, and vanishes if it does not.

    Args:
        path: the file; at each moment the old one or the new one, whole.
        previous: what the old one is called from then on.
    Raises:
        InputError: the folder cannot be written or the disk is full; ``path`` is as it was.
    """
    temporary = None
    try:
        forget_halves([path])
        with contextlib.ExitStack() as stack:
            temporary, file = _claimed(path, stack)
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if previous is not None and path.exists():
                _keep(path, previous)
            os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        if isinstance(error, OSError):
            raise checks.InputError(f"cannot write {path}: {error.strerror or error}") from error
        raise


def forget_halves(paths: Iterable[Path]) -> None:
    """Remove what killed processes may have left beside ``paths``; what another one is writing now stays."""
    for path in paths:
        for half in _halves(path):
            with contextlib.suppress(OSError, checks.InputError), regular_file.opened(half) as file:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held for as long as it is being written
                    half.unlink()


def is_half_of(path: Path, other: Path) -> bool:
    """True if ``other`` is what a process leaves that is killed while it writes ``path``."""
    name = re.escape(path.name) + r"\.[0-9a-f]{8}\.tmp"
    return other.parent == path.parent and re.fullmatch(name, other.name) is not None


def sync_folder(folder: Path) -> None:
    """Make the names in it as lasting as the contents; some file systems and Windows have no way to."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")


def _claimed(path: Path, stack: contextlib.ExitStack) -> tuple[Path, BinaryIO]:
    """A new file beside ``path``, open, which `forget_halves` of other processes leaves alone until ``stack`` ends."""
    while True:
        temporary = _temporary(path)
        try:
            file = open(temporary, "x+b")  # noqa: SIM115  the caller closes it
        except FileExistsError:
            continue
        if fcntl is None:
            return temporary, file
        held = os.dup(file.fileno())  # keeps the lock when the file is closed, before it is renamed
        stack.callback(os.close, held)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(held, fcntl.LOCK_EX)
        if temporary.exists():
            return temporary, file
        file.close()  # another process took it for a half before it was locked


def _halves(path: Path) -> list[Path]:
    try:
        return [other for other in path.parent.iterdir() if is_half_of(path, other)]
    except OSError:  # what is wrong with the folder is said where it is written to
        return []


def _keep(path: Path, previous: Path) -> None:
    """Give the file at ``path`` a second name, in the place of what had that name."""
    forget_halves([previous])
    link = _temporary(previous)
    try:
        os.link(path, link)
    except OSError:  # a file system without links: for a moment there is no file at ``path``
        os.replace(path, previous)
    else:
        os.replace(link, previous)
        with contextlib.suppress(FileNotFoundError):  # still there if both were names of one file already
            link.unlink()
