"""Files that are either the old one or the new one, whole, whenever the machine stops."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from attnconv import checks


@contextlib.contextmanager
def replacing(path: Path, *, previous: Path | None = None) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` once the block ends well, and vanishes if it does not.

    Args:
        path: the file; at each moment the old one or the new one, whole.
        previous: what the old one is called from then on.
    Raises:
        InputError: the folder cannot be written or the disk is full; ``path`` is as it was.
    """
    # In the same folder, because only there is the replacement one step. The name is fixed, so that what a killed
    # process left behind is overwritten by the next one.
    temporary = _temporary(path)
    try:
        with open(temporary, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            _keep(path, previous)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise checks.InputError(f"cannot write {path}: {error.strerror or error}") from error
        raise


def forget_halves(paths: Iterable[Path]) -> None:
    """Remove what a killed process may have left beside ``paths``."""
    for path in paths:
        with contextlib.suppress(OSError):
            _temporary(path).unlink()


def is_half_of(path: Path, other: Path) -> bool:
    """True if ``other`` is what a process leaves that is killed while it writes ``path``."""
    return other == _temporary(path)


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")


def _keep(path: Path, previous: Path) -> None:
    """Give the file at ``path`` a second name, in the place of what had that name."""
    link = _temporary(previous)
    with contextlib.suppress(FileNotFoundError):
        link.unlink()
    try:
        os.link(path, link)
    except OSError:  # a file system without links: for a moment there is no file at ``path``
        os.replace(path, previous)
    else:
        os.replace(link, previous)
        with contextlib.suppress(FileNotFoundError):  # still there if both were names of one file already
            link.unlink()


def _sync_folder(folder: Path) -> None:
    """Make the new name as lasting as the contents; some file systems and Windows have no way to."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
