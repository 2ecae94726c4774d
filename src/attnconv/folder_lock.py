"""One process at a time works in a folder: a lock of the operating system, gone with the process that holds it.

The folder itself is locked, so that no file of ours is left behind. Where the system has no such locks (Windows, some
network file systems) nothing is locked, and `is_locked` is False.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from attnconv import checks

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

ATTEMPTS, PAUSE = 5, 0.1  # seconds: `is_locked` of another process holds the lock for an instant

_held: set[int] = set()


def _let_go() -> None:
    """In a forked child, such as a loader's worker: it would keep the lock of a parent that was killed."""
    for number in _held:
        os.close(number)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of an existing ``folder``.

    Raises:
        InputError: another process holds it.
    """
    if fcntl is None:
        yield
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        for attempt in range(ATTEMPTS):
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if attempt == ATTEMPTS - 1:
                    raise checks.InputError(
                        f"another process is at work in {folder}: wait for its end, or give another folder"
                    ) from None
                time.sleep(PAUSE)
            except OSError:  # no locks here
                break
            else:
                break
        _held.add(number)
        yield
    finally:
        _held.discard(number)
        os.close(number)


def is_locked(folder: Path) -> bool:
    """True if a process, of this machine at least, is at work in ``folder``."""
    if fcntl is None:
        return False
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(number)
    return False
