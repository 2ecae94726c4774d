"""A folder of images from an archive on the web: there whole, or not at all."""

import gzip
import shutil
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from attnconv import checks, files
from attnconv.data.download import download


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
    """The archive's folder in ``data_dir``, downloaded and unpacked if it is not there.

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
