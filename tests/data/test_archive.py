"""Folders out of archives: whole, or not there."""

import io
import tarfile

import pytest
from data.web import Serving

from attnconv.checks import InputError
from attnconv.data import download
from attnconv.data.archive import Archive, fetch, unpack


def tgz(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


GOOD = tgz({"pets/train/a.txt": b"one" * 5000, "pets/val/b.txt": b"two"})


@pytest.fixture
def web(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.0)
    with Serving() as web:
        web.files["pets.tgz"] = GOOD
        yield web


def test_fetch(web, tmp_path):
    archive = Archive(web.address + "pets.tgz", ())
    assert (archive.file_name, archive.folder_name) == ("pets.tgz", "pets")
    folder = fetch(archive, tmp_path / "new" / "data")
    assert folder == tmp_path / "new" / "data" / "pets"
    assert (folder / "train" / "a.txt").read_bytes() == b"one" * 5000
    assert [p.name for p in folder.parent.iterdir() if not p.name.endswith(".lock")] == ["pets"]  # no archive


def test_the_second_time_nothing_is_asked_for(web, tmp_path):
    for _ in range(2):
        fetch(Archive(web.address + "pets.tgz", ()), tmp_path)
    assert len(web.asked) == 1


def test_an_archive_that_lies_there_is_not_downloaded(web, tmp_path):
    (tmp_path / "pets.tgz").write_bytes(GOOD)
    assert (fetch(Archive(web.address + "pets.tgz", ()), tmp_path) / "val").is_dir()
    assert web.asked == []


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    "damaged",
    [
        GOOD[: len(GOOD) // 2],  # cut off
        GOOD[:-4],
        flipped(GOOD, len(GOOD) - 6),  # the checksum at the very end
        flipped(GOOD, len(GOOD) // 2),
        b"<html>no archive</html>",
        b"",
    ],
    ids=["half", "no end", "checksum", "a bit", "html", "empty"],  # gzip writes the time into the bytes
)
def test_a_damaged_archive_leaves_nothing(tmp_path, damaged):
    (tmp_path / "pets.tgz").write_bytes(damaged)
    with pytest.raises(InputError, match=r"^.*pets\.tgz is damaged \(.+\), and is now deleted$"):
        unpack(tmp_path / "pets.tgz", tmp_path / "pets")
    assert list(tmp_path.iterdir()) == []


def test_an_archive_of_something_else(tmp_path):
    (tmp_path / "pets.tgz").write_bytes(tgz({"plants/a.txt": b""}))
    with pytest.raises(InputError, match=r"pets\.tgz holds no folder pets$"):
        unpack(tmp_path / "pets.tgz", tmp_path / "pets")
    assert [path.name for path in tmp_path.iterdir()] == ["pets.tgz"]


def test_nothing_is_written_outside(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pets.tgz").write_bytes(tgz({"../outside.txt": b"", "pets/a.txt": b""}))
    with pytest.raises(InputError, match="is damaged"):
        unpack(tmp_path / "data" / "pets.tgz", tmp_path / "data" / "pets")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_what_a_killed_process_left_is_no_hindrance(tmp_path):
    (tmp_path / ".pets.partial" / "pets" / "train").mkdir(parents=True)
    (tmp_path / ".pets.partial" / "pets" / "train" / "half.txt").write_text("")
    (tmp_path / "pets.tgz").write_bytes(GOOD)
    unpack(tmp_path / "pets.tgz", tmp_path / "pets")
    assert [path.name for path in (tmp_path / "pets" / "train").iterdir()] == ["a.txt"]


def test_a_folder_that_cannot_be_written(web, tmp_path):
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(InputError, match=r"^cannot write into .*data: File exists$"):
        fetch(Archive(web.address + "pets.tgz", ()), tmp_path / "data")
