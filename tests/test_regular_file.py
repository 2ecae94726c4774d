"""Only regular files are opened, and no more of them is read than is reasonable."""

import hashlib
import os
import signal
import socket

import pytest

from attnconv import files
from attnconv.checks import InputError

HUGE = 200 * 10**9  # bytes; nothing is on the disk


class TooLate(Exception):
    pass


@pytest.fixture(autouse=True)
def deadline():
    """No test waits for what never comes: an open() that hangs is interrupted."""

    def raise_it(*_):
        raise TooLate

    before = signal.signal(signal.SIGALRM, raise_it)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def fifo(path):
    os.mkfifo(path)


def unix_socket(path):
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(path.name)
    finally:
        os.chdir(here)


def device(path):
    path.symlink_to("/dev/zero")


def sparse(path):
    """A file of 200 GB of which nothing is on the disk."""
    with path.open("wb") as file:
        file.truncate(HUGE)


KINDS = [(fifo, "a FIFO"), (unix_socket, "a socket"), (device, "a character device")]
READERS = [
    files.require,
    files.opened,
    files.read_text,
    lambda path: files.read_bytes(path, at_most=10),
]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(("make", "kind"), KINDS)
def test_what_is_no_regular_file_is_refused(tmp_path, make, kind, read):
    make(tmp_path / "x.png")
    with pytest.raises(InputError, match=rf"x\.png is {kind} and not a regular file: it is not opened$"):
        read(tmp_path / "x.png")


@pytest.mark.parametrize(("make", "kind"), KINDS[::2])
def test_what_takes_the_place_of_a_file_after_the_look_is_refused(tmp_path, monkeypatch, make, kind):
    make(tmp_path / "x.png")
    monkeypatch.setattr(files, "require", lambda path, at_most: None)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    with pytest.raises(InputError, match=rf"is {kind} and not a regular file"):
        files.opened(tmp_path / "x.png")
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_link_to_a_regular_file_is_one(tmp_path):
    (tmp_path / "a").write_bytes(b"one\r\ntwo\rthree\n")
    (tmp_path / "b").symlink_to("a")
    assert files.read_text(tmp_path / "b") == "one\ntwo\nthree\n"
    assert files.read_bytes(str(tmp_path / "b"), at_most=15) == b"one\r\ntwo\rthree\n"


@pytest.mark.parametrize("read", READERS)
def test_folders_and_missing_files_are_errors_of_the_system(tmp_path, read):
    with pytest.raises(IsADirectoryError):
        read(tmp_path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nothing")


def test_a_large_file_is_refused_by_its_size(tmp_path):
    sparse(tmp_path / "x")
    message = r"x is larger than 16 MiB, the limit for such a file: it has 200,000,000,000 bytes$"
    with pytest.raises(InputError, match=message):
        files.read_text(tmp_path / "x")
    with files.opened(tmp_path / "x") as file:  # where all of it is not read
        assert file.read(3) == bytes(3)


def test_the_limit_itself_is_not_above_it(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    assert files.read_bytes(tmp_path / "x", at_most=5) == b"12345"
    with pytest.raises(InputError, match="is larger than 0 MiB"):
        files.read_bytes(tmp_path / "x", at_most=4)


def test_what_is_written_to_may_be_absent_and_no_fifo(tmp_path):
    files.require_if_there(tmp_path / "a")
    fifo(tmp_path / "a")
    with pytest.raises(InputError, match="a is a FIFO and not a regular file"):
        files.require_if_there(tmp_path / "a")


def test_more_bytes_than_this_machine_has_memory():
    files.require_memory("a.bin", 10**6)
    with pytest.raises(InputError, match=r"^a\.bin has 1000000000000000 bytes, more than this machine has memory$"):
        files.require_memory("a.bin", 10**15)


def test_checksums_are_those_of_hashlib(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 10**6)
    assert files.digest(tmp_path / "a") == hashlib.sha256(b"abc" * 10**6).hexdigest()
    assert files.digest(tmp_path / "a", "md5") == hashlib.md5(b"abc" * 10**6).hexdigest()
