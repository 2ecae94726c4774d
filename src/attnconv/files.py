"""Files and folders of this machine: regular files opened, files replaced whole, one process at a time in a folder.

Checksums: a zip archive, as torch.save and torch.export write, would let a flipped bit in a weight pass. It gets the
SHA-256 of its bytes as its comment; other programs read it as before.

Regular files: files of others are opened only if they are regular ones, and read only up to a size. A FIFO or a socket
in the place of a file would be waited for, a device read without end. Links to regular files pass.

Replacement: a file is the old one or the new one, whole, whenever the machine stops. Each is written under a name of
its own, NAME.XXXXXXXX.tmp (eight hexadecimal digits), in the same folder, because only there is the replacement one
step. Two processes that write one file share no such name; what a killed one left is removed by the next that writes
the same file.

Locks: a folder is locked by the operating system, and the lock is gone with the process that holds it. The folder
itself is locked, so that no file of ours is left behind. Where the system has no such locks (Windows, some network file
systems) nothing is locked, and `is_locked` is False.
"""

import contextlib
import errno
import hashlib
import io
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from attnconv import checks

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

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


def free_memory() -> int | None:
    """Return the bytes of main memory that could be filled; None where the system does not say."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        with contextlib.suppress(OSError, ValueError):  # a container may have less
            limit, used = (int(Path("/sys/fs/cgroup", name).read_text()) for name in ("memory.max", "memory.current"))
            free = max(0, min(free, limit - used))
        return free
    return None


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


def make_folder(folder: Path) -> None:
    """Make ``folder``, and those above it, if it is not there.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise checks.InputError(f"cannot write into {folder}: {error.strerror or error}") from error


def write(path: Path, content: str | bytes) -> None:
    """Put ``content``, text in UTF-8, in the place of the file ``path``, as `replacing` does; errors as its."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def forget_halves(paths: Iterable[Path]) -> None:
    """Remove what killed processes may have left beside ``paths``; what another one is writing now stays."""
    for path in paths:
        for half in _halves(path):
            with contextlib.suppress(OSError, checks.InputError), opened(half) as file:
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


ATTEMPTS, PAUSE = 5, 0.1  # seconds: `is_locked` of another process holds the lock for an instant

_held: set[int] = set()


def _let_go() -> None:
    """Close the locks in a forked child, such as a loader's worker: it would keep that of a parent that was killed."""
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


MARK = b"attnconv-sha256:"
COMMENT = len(MARK) + 64  # bytes of an archive's comment: the mark and the digest in hexadecimal
END_MARK, END_RECORD = b"PK\5\6", 22  # of the record that ends an archive, just before the comment: mark and bytes
BLOCK = 1 << 20  # bytes read at once


def append_checksum(file: BinaryIO) -> None:
    """Close the archive in ``file``, open for reading and writing, with the SHA-256 of all bytes before the comment."""
    file.seek(-2, os.SEEK_END)  # the archive's last two bytes: the length of its comment, which torch leaves at 0
    file.write(COMMENT.to_bytes(2, "little"))
    file.seek(0)
    found = hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]
    file.seek(0, os.SEEK_END)
    file.write(MARK + found.encode())


def verify_checksum(path: Path) -> bool:
    """Compare the archive with its checksum; False for one that torch.save wrote without any, which passes.

    Raises:
        InputError: the bytes are not those that were summed, the checksum itself is cut off or damaged, or it is no
            regular file or a larger one than is read.
        OSError: the file cannot be read.
    """
    with opened(path, at_most=WEIGHTS) as file:
        size = file.seek(0, os.SEEK_END)
        tail = _tail(file)
        comment = tail[-COMMENT:]
        if not comment.startswith(MARK):
            end = tail.rfind(END_MARK)
            if end >= 0 and tail[end + END_RECORD - 2 : end + END_RECORD] != b"\0\0":  # it announces a comment
                raise checks.InputError(f"{path} is cut short or damaged: it has lost its checksum")
            return False
        file.seek(0)
        summed, left = hashlib.sha256(), size - COMMENT
        while block := file.read(min(left, BLOCK)):
            summed.update(block)
            left -= len(block)
    if summed.hexdigest().encode() != comment[len(MARK) :]:
        raise changed(path)
    return True


def changed(path: Path) -> checks.InputError:
    """Return the error of a file that is not what was saved."""
    return checks.InputError(
        f"{path} is damaged or was changed: its contents do not have the checksum that was saved with them"
    )


def _tail(file: BinaryIO) -> bytes:
    """Return the last bytes of an archive: the record that ends it and a checksum."""
    file.seek(-min(file.seek(0, os.SEEK_END), COMMENT + END_RECORD), os.SEEK_END)
    return file.read()
