"""Local files and folders: safe opening, atomic replacement, locks, checksums.

Checksums: a flipped bit in a weight would pass unnoticed in the zip archives of torch.save and torch.export. The
SHA-256 of an archive's bytes becomes its comment, which other programs ignore.

Regular files: untrusted files are opened only if they are regular files, and read only up to a size. A FIFO or a socket
would block, and a device has no end. Links to regular files are accepted.

Replacement: whenever the machine stops, a file is completely old or completely new. A new file has the temporary name
NAME.XXXXXXXX.tmp (eight hexadecimal digits) in the same folder, where a rename is atomic. Processes never share such a
name; the next process that writes the same file removes what a killed process left.

Locks: the operating system locks the folder itself, so no lock file remains, and the lock ends with its process.
Without such locks (Windows, some network file systems) nothing is locked, and `is_locked` is False.
"""

import contextlib
import csv
import errno
import glob
import hashlib
import io
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from attnconv import checks

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

T = TypeVar("T")

# Size limits in bytes: more than any such file needs, less than a machine's memory.
TEXT = 2**24  # configurations, plans, results, lists of classes
TABLE = 2**30  # one row per run, epoch or measurement
WEIGHTS = 2**35  # checkpoints and exported networks

KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def require(path: str | Path, *, at_most: int | None = None) -> None:
    """Raise unless ``path`` is a regular file of ``at_most`` bytes, before another library opens it.

    Raises:
        InputError: it is a FIFO, a socket or a device, or larger.
        OSError: it is missing, a folder, or inaccessible.
    """
    _require(os.stat(path), path, at_most)


def require_if_there(path: str | Path) -> None:
    """Raise as `require` if ``path`` exists, before it is written."""
    if os.path.exists(path):
        require(path)


def opened(path: str | Path, *, at_most: int | None = None) -> io.BufferedReader:
    """Open a regular file for reading bytes; arguments and errors as `require`.

    The check is repeated on the open file, which may have replaced the first one.
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
    """Return the content of a regular file; errors as `require`."""
    with opened(path, at_most=at_most) as file:
        return file.read()


def read_text(path: str | Path, *, at_most: int = TEXT) -> str:
    """Return the text of a regular file with "\\n" as line ends; errors as `require`.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
    """
    return read_bytes(path, at_most=at_most).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")


def parsed(path: Path, parse: Callable[[str], T]) -> T:
    """Return what ``parse`` makes of a text file; InputError if it cannot be read, or ``parse`` raises ValueError."""
    with (
        checks.explained(f"cannot read {path}", OSError),
        checks.explained(f"{path} is damaged", ValueError, reason=str),
    ):
        return parse(read_text(path))


def csv_text(rows: Iterable[Mapping[str, Any]], columns: Iterable[str] = ()) -> str:
    """Return a table with a header, these ``columns`` first; a value that is None or missing is an empty cell."""
    file, rows = io.StringIO(), list(rows)
    names = dict.fromkeys((*columns, *(name for row in rows for name in row)))
    writer = csv.DictWriter(file, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def digest(path: str | Path, kind: str = "sha256", *, at_most: int | None = None) -> str:
    """Return the checksum of a regular file in hexadecimal, of a ``kind`` of hashlib; errors as `require`."""
    with opened(path, at_most=at_most) as file:
        return hashlib.file_digest(file, kind).hexdigest()


def require_memory(what: str, size: int) -> None:
    """Raise InputError unless this machine has ``size`` bytes of memory, since systems overcommit.

    A small sparse file can have any size.
    """
    if "SC_PHYS_PAGES" in os.sysconf_names and size > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        raise checks.InputError(f"{what} has {size} bytes, more than this machine has memory")


def free_memory() -> int | None:
    """Return the available main memory in bytes; None if the system does not report it."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        with contextlib.suppress(OSError, ValueError):  # limit of a container
            limit, used = (int(Path("/sys/fs/cgroup", name).read_text()) for name in ("memory.max", "memory.current"))
            free = max(0, min(free, limit - used))
        return free
    return None


def _require(found: os.stat_result, path: str | Path, at_most: int | None) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise checks.InputError(f"{path} is {kind} and not a regular file: it is not opened")
    if at_most is not None and found.st_size > at_most:
        raise checks.InputError(
            f"{path} is larger than {at_most // 2**20:,} MiB, the limit for such a file: it has {found.st_size:,} bytes"
        )


@contextlib.contextmanager
def replacing(path: Path, *, previous: Path | None = None) -> Iterator[BinaryIO]:
    """Open a new file that replaces ``path`` if the ``with`` block succeeds and is removed if it fails.

    Args:
        path: the file, at each moment completely old or completely new.
        previous: new name of the old file.
    Raises:
        InputError: the folder cannot be written or the disk is full; ``path`` is unchanged.
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
    """Create ``folder`` and its parents if needed; raise InputError if that fails."""
    with checks.explained(f"cannot make the folder {folder}", OSError):
        folder.mkdir(parents=True, exist_ok=True)


def write(path: Path, content: str | bytes) -> None:
    """Replace the file ``path`` by ``content``, text as UTF-8; errors as `replacing`."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def forget_halves(paths: Iterable[Path]) -> None:
    """Remove temporary files of ``paths`` that killed processes left, but not those that are being written."""
    for path in paths:
        for half in path.parent.glob(f"{glob.escape(path.name)}.*.tmp"):
            with contextlib.suppress(OSError, checks.InputError):
                if fcntl is not None and is_half_of(path, half):
                    with opened(half) as file:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while it is being written
                        half.unlink()


def is_half_of(path: Path, other: Path) -> bool:
    """True if ``other`` is a temporary file of ``path``."""
    name = re.escape(path.name) + r"\.[0-9a-f]{8}\.tmp"
    return other.parent == path.parent and re.fullmatch(name, other.name) is not None


def sync_folder(folder: Path) -> None:
    """Flush the names in ``folder`` to disk, where the system supports it."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")


def _claimed(path: Path, stack: contextlib.ExitStack) -> tuple[Path, BinaryIO]:
    """Open a temporary file of ``path``, which `forget_halves` of other processes ignores until ``stack`` ends."""
    while True:
        temporary = _temporary(path)
        try:
            file = open(temporary, "x+b")  # noqa: SIM115  the caller closes it
        except FileExistsError:
            continue
        if fcntl is None:
            return temporary, file
        held = os.dup(file.fileno())  # keeps the lock after the file is closed, until it is renamed
        stack.callback(os.close, held)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(held, fcntl.LOCK_EX)
        if temporary.exists():
            return temporary, file
        file.close()  # another process removed it before it was locked


def _keep(path: Path, previous: Path) -> None:
    """Give the file ``path`` a second name, replacing the file of that name."""
    forget_halves([previous])
    link = _temporary(previous)
    try:
        os.link(path, link)
    except OSError:  # a file system without links: ``path`` is missing for a moment
        os.replace(path, previous)
    else:
        os.replace(link, previous)
        with contextlib.suppress(FileNotFoundError):  # it remains if both names were of one file already
            link.unlink()


ATTEMPTS, PAUSE = 5, 0.1  # seconds: `is_locked` in another process holds the lock for an instant

_held: set[int] = set()


def _let_go() -> None:
    """Close the locks in a forked child such as a data loader's worker, which would keep them for a killed parent."""
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
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
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
    """True if a process on this machine holds the lock of ``folder``."""
    if fcntl is None:
        return False
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(number)
    return False


MARK = b"attnconv-sha256:"
COMMENT = len(MARK) + 64  # bytes of an archive's comment: the mark and the digest in hexadecimal
END_MARK, END_RECORD = b"PK\5\6", 22  # mark and bytes of an archive's last record, before the comment
BLOCK = 1 << 20  # bytes per read


def append_checksum(file: BinaryIO) -> None:
    """Append to the archive in ``file``, open for reading and writing, the SHA-256 of all bytes before the comment."""
    file.seek(-2, os.SEEK_END)  # the last two bytes: the length of the comment, 0 in torch's archives
    file.write(COMMENT.to_bytes(2, "little"))
    file.seek(0)
    found = hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]
    file.seek(0, os.SEEK_END)
    file.write(MARK + found.encode())


def verify_checksum(path: Path) -> bool:
    """Compare an archive with its checksum; return False if torch.save wrote it without one.

    Raises:
        InputError: the bytes or the checksum are damaged, or the file is not regular or too large.
        OSError: the file cannot be read.
    """
    with opened(path, at_most=WEIGHTS) as file:
        size = file.seek(0, os.SEEK_END)
        tail = _tail(file)
        comment = tail[-COMMENT:]
        if not comment.startswith(MARK):
            end = tail.rfind(END_MARK)
            if end >= 0 and tail[end + END_RECORD - 2 : end + END_RECORD] != b"\0\0":  # it should have a comment
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
    """Return the error for a file that differs from what was saved."""
    return checks.InputError(
        f"{path} is damaged or was changed: its contents do not have the checksum that was saved with them"
    )


def _tail(file: BinaryIO) -> bytes:
    """Return the last bytes of an archive: its last record and the checksum."""
    file.seek(-min(file.seek(0, os.SEEK_END), COMMENT + END_RECORD), os.SEEK_END)
    return file.read()
