"""Folders of images from archives on the web, downloaded and unpacked atomically.

A download that was cut goes on where it stopped; an archive is unpacked only if its checksum fits.
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
from collections.abc import Mapping
from pathlib import Path

from attnconv import checks, files

TRIES = 4  # in a row without a byte
PAUSE = 1.0  # seconds before the second try, doubled for each later one
TIMEOUT = 60.0  # seconds without a byte


def fetch(url: str, data_dir: Path, *, digests: Mapping[str, str] = {}) -> Path:
    """Return the folder NAME in ``data_dir``, downloaded and unpacked from ``url``, .../NAME.tgz, if it is not there.

    Several processes may call this at a time: one downloads, the others wait.

    Args:
        digests: checksums, see `download`. Without any, only gzip's own of 32 bits is compared.
    Raises:
        InputError: it cannot be downloaded, unpacked or written.
    """
    file = data_dir / url.rpartition("/")[2]
    folder = file.with_suffix("")
    if folder.is_dir():
        return folder
    filelock = checks.require("filelock", extra="train")
    with checks.explained(f"cannot write into {data_dir}", OSError):
        data_dir.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(data_dir / f".{folder.name}.lock"):
            if not folder.is_dir():
                if not file.exists():
                    download(url, file, digests=digests)
                unpack(file, folder)
                file.unlink()
    return folder


def unpack(file: Path, folder: Path) -> None:
    """Unpack ``file``, which holds one folder called as ``folder``, atomically.

    Raises:
        InputError: the file is damaged, and now deleted, or holds something else.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, partial, ignore_errors=True)
        try:
            with files.opened(file) as packed, gzip.open(packed) as plain:
                with tarfile.open(fileobj=plain, mode="r|") as tar:
                    tar.extractall(partial, filter="data")  # nothing outside of the folder
                while plain.read(1 << 20):  # gzip compares its checksum at the end
                    pass
        except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
            file.unlink()
            raise checks.InputError(
                f"{file} is damaged ({' '.join(str(error).split())}), and is now deleted"
            ) from error
        if not (partial / folder.name).is_dir():
            raise checks.InputError(f"{file} holds no folder {folder.name}")
        (partial / folder.name).replace(folder)


def download(url: str, path: Path, *, digests: Mapping[str, str]) -> None:
    """Download ``url`` to ``path``, atomically.

    ``path``.part holds the bytes of an unfinished download, where the next call goes on. Calls for one path must not
    overlap.

    Args:
        digests: checksums by kind such as "md5", of which one must fit; empty if unknown.
    Raises:
        InputError: no such file, no connection, or a checksum that does not fit.
        OSError: the file cannot be written.
    """
    part = path.with_name(path.name + ".part")
    files.require_if_there(part)
    resumed = _fetch(url, part)
    if resumed and not fits(part, digests):  # the file may have changed between the two halves
        part.unlink()
        _fetch(url, part)
    if not fits(part, digests):
        part.unlink()
        known = ", ".join(f"{kind}:{digest}" for kind, digest in digests.items())
        raise checks.InputError(f"cannot download {url}: its checksum is none of {known}")
    part.replace(path)


def fits(path: Path, digests: Mapping[str, str]) -> bool:
    """True if the file has one of the checksums, or there are none."""
    return not digests or any(files.digest(path, kind) == known for kind, known in digests.items())


def _fetch(url: str, part: Path) -> bool:
    """Download the rest of ``part``; return True if it holds bytes of an earlier connection."""
    resumed, idle = False, 0
    while True:
        have = _size(part)
        resumed |= have > 0
        try:
            _append(url, part)
            return resumed
        except urllib.error.HTTPError as error:
            if have and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # whole already, or too long
                return True
            reason = f"HTTP {error.code} {error.reason}"
            if error.code < 500:
                raise checks.InputError(f"cannot download {url}: {reason}") from None
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            reason = " ".join(str(cause).split()) or type(cause).__name__
        idle = 0 if _size(part) > have else idle + 1
        if idle == TRIES:
            kept = f"; the {_size(part):,} bytes in {part} are kept, and the next try goes on there"
            raise checks.InputError(f"cannot download {url}: {reason}" + (kept if _size(part) else ""))
        if idle:
            time.sleep(PAUSE * 2 ** (idle - 1))


def _append(url: str, part: Path) -> None:
    """Append the bytes of one connection to ``part``; HTTPException if it is cut."""
    progress, console = (checks.require(f"rich.{name}", extra="train") for name in ("progress", "console"))
    have = _size(part)
    headers = {"User-Agent": "attnconv", "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
        resumed = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        length = int(answer.headers.get("Content-Length", 0))
        bar = progress.wrap_file(
            answer,
            total=length,
            description=f"downloading {part.stem}",
            console=console.Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        with part.open("ab" if resumed else "wb") as file, bar as source:
            shutil.copyfileobj(source, file)
            end = file.tell()
    if end < length + have * resumed:
        raise http.client.IncompleteRead(b"", length)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
