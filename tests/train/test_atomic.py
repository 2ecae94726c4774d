import errno
import os

import pytest

from attnconv.checks import InputError
from attnconv.train.atomic import forget_halves, replacing


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


def test_what_a_killed_process_left_is_written_over(path):
    path.with_name("file.tmp").write_bytes(b"a longer half of a file")
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
    path.with_name("previous.tmp").write_bytes(b"of a killed process")
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
    path.with_name("file.tmp").write_bytes(b"half")
    path.with_name("notes.tmp").write_bytes(b"mine")
    forget_halves((path, path.with_name("none")))
    assert sorted(os.listdir(path.parent)) == ["file", "notes.tmp"]
