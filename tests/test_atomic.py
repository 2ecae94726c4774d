import errno
import os
from pathlib import Path

import pytest

from attnconv.checks import InputError
from attnconv.files import forget_halves, replacing


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path


def test_a_file_is_replaced(path):
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["file"]


def full_disk(*args):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(path, monkeypatch, call):
    monkeypatch.setattr(os, call, full_disk)
    with pytest.raises(InputError, match=r"^cannot write .*file: No space left on device$"), replacing(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_in_the_block_passes_and_leaves_the_old_file(path, error):
    def write():
        with replacing(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["file"]


def test_a_folder_that_is_no_folder(path):
    with pytest.raises(InputError, match=r"cannot write .*Not a directory"), replacing(path / "below"):
        pass


def test_what_a_killed_process_left_is_removed(path):
    path.with_name("file.0123abcd.tmp").write_bytes(b"a longer half of a file")
    with replacing(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["file"]


def refuse(*args):
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_the_old_file_is_kept_under_another_name(path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    previous = path.with_name("previous")
    previous.write_bytes(b"older")
    path.with_name("previous.0123abcd.tmp").write_bytes(b"of a killed process")
    with replacing(path, previous=previous) as file:
        file.write(b"new")
    assert (path.read_bytes(), previous.read_bytes()) == (b"new", b"old")
    assert sorted(os.listdir(path.parent)) == ["file", "previous"]


def test_a_failed_write_leaves_the_older_file_too(path, monkeypatch):
    previous = path.with_name("previous")
    previous.write_bytes(b"older")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(InputError, match="No space left"), replacing(path, previous=previous) as file:
        file.write(b"new")
    assert (path.read_bytes(), previous.read_bytes()) == (b"old", b"older")


def test_a_process_killed_between_the_two_names_leaves_nothing_in_the_end(path):
    previous = path.with_name("previous")
    os.link(path, previous)  # as it was when the process was killed: both are names of the old file
    with replacing(path, previous=previous) as file:
        file.write(b"new")
    assert (path.read_bytes(), previous.read_bytes()) == (b"new", b"old")
    assert sorted(os.listdir(path.parent)) == ["file", "previous"]


def test_halves_are_removed_and_nothing_else(path):
    mine = ["file.tmp", "file.0123abcd.tmp.txt", "file.notes.tmp", "my-file.0123abcd.tmp", "notes.tmp"]
    for name in ("file.0123abcd.tmp", *mine):
        path.with_name(name).write_bytes(b"half")
    forget_halves((path, path.with_name("none")))
    assert sorted(os.listdir(path.parent)) == sorted(["file", *mine])


def test_two_that_write_one_file_share_no_name(path):
    """Neither is in the other's way, nor takes the other's half for that of a killed process; the last one stays."""
    with replacing(path) as first:
        first.write(b"first")
        with replacing(path) as second:
            second.write(b"second")
            assert Path(first.name) != Path(second.name)
            assert Path(first.name).exists()
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert os.listdir(path.parent) == ["file"]


def test_a_half_that_was_removed_before_it_was_locked_is_begun_again(path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    names = []

    def lock(number, how):
        if not names:
            names.append(next(other for other in path.parent.iterdir() if other != path))
            names[0].unlink()  # as another process that found it unlocked
        flock(number, how)

    flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lock)
    with replacing(path) as file:
        file.write(b"new")
    assert names
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_a_file_has_the_mode_that_the_umask_says(path, mask):
    before = os.umask(mask)
    try:
        with replacing(path) as file:
            file.write(b"new")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.timeout(60)
def test_a_fifo_under_the_name_of_a_half_is_not_waited_for(path):
    os.mkfifo(path.with_name(f"{path.name}.0123abcd.tmp"))
    with replacing(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
