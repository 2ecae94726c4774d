"""Folders of images from archives on the web, each there whole or not at all.

A download that was cut goes on where it stopped, and only what its checksum fits is unpacked.
"""

import contextlib
import gzip
import http.client
import shutil
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from attnconv import checks, files

TRIES = 4  # in a row that bring nothing
PAUSE = 1.0  # seconds before the second of them, doubled from then on
TIMEOUT = 60.0  # seconds without a byte
CHUNK = 1 << 20

Told = Callable[[int, int | None], object]  # bytes so far, bytes in all if the server says so


@dataclass(frozen=True)
class Archive:
    """A .tgz that holds one folder of its own name.

    Args:
        url: where it is.
        digests: checksums such as "sha256:..." that are known of it, of which one must fit. Empty if none is known:
            then gzip's own checksum of 32 bits, which finds accidents, is all that is compared.
    """

    url: str
    digests: tuple[str, ...]

    @property
    def file_name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def folder_name(self) -> str:
        return self.file_name.removesuffix(".tgz")


def fetch(archive: Archive, data_dir: Path) -> Path:
    """Return the archive's folder in ``data_dir``, downloaded and unpacked if it is not there.

    Several processes may call this at a time: one fetches, the others wait.

    Raises:
        InputError: it cannot be downloaded, unpacked or written.
    """
    folder = data_dir / archive.folder_name
    if folder.is_dir():
        return folder
    filelock = checks.require("filelock", extra="train")
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(data_dir / f".{archive.folder_name}.lock"):
            if not folder.is_dir():
                file = data_dir / archive.file_name
                if not file.exists():
                    download(archive.url, file, digests=archive.digests)
                unpack(file, folder)
                file.unlink()
    except OSError as error:
        raise checks.InputError(f"cannot write into {data_dir}: {error.strerror or error}") from error
    return folder


def unpack(file: Path, folder: Path) -> None:
    """Unpack ``file``, which holds one folder of the name of ``folder``; it appears there when all of it is written.

    Raises:
        InputError: the file is damaged, and has been deleted, or holds something else.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with files.opened(file) as packed, gzip.open(packed) as plain:
            with tarfile.open(fileobj=plain, mode="r|") as tar:
                tar.extractall(partial, filter="data")  # nothing outside of the folder
            while plain.read(1 << 20):  # to the end, where gzip compares its checksum
                pass
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        shutil.rmtree(partial, ignore_errors=True)
        file.unlink()
        raise checks.InputError(f"{file} is damaged ({' '.join(str(error).split())}), and is now deleted") from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if not (partial / folder.name).is_dir():
        shutil.rmtree(partial)
        raise checks.InputError(f"{file} holds no folder {folder.name}")
    (partial / folder.name).replace(folder)
    shutil.rmtree(partial)


def download(url: str, path: Path, *, digests: tuple[str, ...]) -> None:
    """Fetch ``url`` to ``path``, which appears only when it is whole.

    Until then the bytes are in ``path``.part, where the next call goes on. Calls for one path must not overlap.

    Args:
        digests: checksums such as "md5:d41d8..." of which one must fit; none if no checksum is known.
    Raises:
        InputError: no such file, no connection, no room, or a checksum that does not fit.
    """
    part = path.with_name(path.name + ".part")
    with _writing(part):
        files.require_if_there(part)
        files.require_if_there(part.with_name(part.name + ".tag"))
    with _bar(f"downloading {path.name}") as told:
        resumed = _fetch(url, part, told)
        if resumed and not fits(part, digests):  # the file may have changed between the two halves
            part.unlink()
            _fetch(url, part, told)
    if not fits(part, digests):
        part.unlink()
        raise checks.InputError(f"cannot download {url}: its checksum is none of {', '.join(digests)}")
    part.replace(path)


def fits(path: Path, digests: tuple[str, ...]) -> bool:
    """True if the file has one of the checksums, or none is known."""
    for kind in {digest.partition(":")[0] for digest in digests}:
        if f"{kind}:{files.digest(path, kind)}" in digests:
            return True
    return not digests


def _fetch(url: str, part: Path, told: Told) -> bool:
    """Bring ``part`` to the full length; True if bytes of an earlier connection are in it."""
    resumed, idle = False, 0
    while True:
        before = _size(part)
        try:
            whole = _go_on(url, part, told)
            resumed |= 0 < before <= _size(part)
            if whole:
                return resumed
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
            if error.code < 500:
                raise checks.InputError(f"cannot download {url}: {reason}") from None
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            reason = " ".join(str(cause).split()) or type(cause).__name__
        idle = 0 if _size(part) > before else idle + 1
        if idle == TRIES:
            kept = f"; the {_size(part):,} bytes in {part} are kept, and the next try goes on there"
            raise checks.InputError(f"cannot download {url}: {reason}" + (kept if _size(part) else ""))
        if idle:
            time.sleep(PAUSE * 2 ** (idle - 1))


def _go_on(url: str, part: Path, told: Told) -> bool:
    """Append to ``part`` what one connection brings; True if the file is then whole."""
    have, tag = _size(part), part.with_name(part.name + ".tag")
    headers = {"User-Agent": "attnconv", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if tag.exists():  # a server whose file has changed since then answers with all of it
            headers["If-Range"] = files.read_text(tag)
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            tag.unlink(missing_ok=True)
            return True
        part.unlink()  # longer than the file: no beginning of it
        return False
    with answer:
        goes_on = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        if goes_on and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise http.client.HTTPException(f"asked for bytes from {have} on, got {answer.headers['Content-Range']}")
        have = have if goes_on else 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        with _writing(part):
            validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
            if validator and not validator.startswith("W/"):  # weak ones say nothing of single bytes
                tag.write_text(validator)
            else:
                tag.unlink(missing_ok=True)
            file = part.open("ab" if goes_on else "wb")
        try:
            while chunk := _read(answer):
                with _writing(part):
                    file.write(chunk)
                have += len(chunk)
                told(have, total)
        finally:
            with _writing(part):  # the last bytes go to the disk here
                file.close()
    if total is not None and have < total:
        return False
    tag.unlink(missing_ok=True)
    return True


def _read(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read1(CHUNK)
    except http.client.IncompleteRead as error:
        return error.partial


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raise what the system refuses here as InputError: it is no fault of the connection."""
    try:
        yield
    except OSError as error:
        raise checks.InputError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def _bar(text: str) -> Iterator[Told]:
    """Show a progress bar on stderr, if that is a terminal and rich is there."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    try:
        from rich import progress
        from rich.console import Console
    except ImportError:
        yield lambda done, total: None
        return
    columns = ("{task.description}", progress.BarColumn(), progress.DownloadColumn(), progress.TransferSpeedColumn())
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
