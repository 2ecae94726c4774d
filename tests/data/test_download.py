"""Downloads that are cut, resumed, changed in between, damaged, refused; and folders out of archives."""

import errno
import hashlib
import io
import os
import tarfile

import pytest
from data.web import Serving

from attnconv.checks import InputError
from attnconv.data import download as module
from attnconv.data.download import download, fetch, fits, unpack

DATA = bytes(range(256)) * 40
MD5 = "md5:" + hashlib.md5(DATA).hexdigest()
SHA = "sha256:" + hashlib.sha256(DATA).hexdigest()


def tgz(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


GOOD = tgz({"pets/train/a.txt": b"one" * 5000, "pets/val/b.txt": b"two"})


def by_kind(*digests: str) -> dict[str, str]:
    return dict(digest.split(":") for digest in digests)


@pytest.fixture
def web(monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0.0)
    with Serving() as web:
        web.files |= {"a.tgz": DATA, "pets.tgz": GOOD}
        yield web


@pytest.fixture
def get(web, tmp_path):
    def run(*digests: str) -> bytes:
        download(web.address + "a.tgz", tmp_path / "a.tgz", digests=by_kind(*digests))
        assert [path.name for path in tmp_path.iterdir()] == ["a.tgz"]  # nothing else is left
        return (tmp_path / "a.tgz").read_bytes()

    return run


@pytest.mark.parametrize("digests", [(), (MD5,), (SHA,), ("md5:0", SHA), ("sha256:0", MD5)])
def test_a_file_arrives(web, get, digests):
    assert get(*digests) == DATA
    assert web.asked == [("/a.tgz", None)]


def test_a_file_of_unknown_length(web, get):
    web.lengths = False
    assert get(MD5) == DATA


def test_a_cut_connection_is_taken_up_where_it_broke_off(web, get):
    web.cut_after = [3000, 100, 1]
    assert get(MD5) == DATA
    assert [wanted for _, wanted in web.asked] == [None, "bytes=3000-", "bytes=3100-", "bytes=3101-"]


def test_the_next_call_goes_on_where_the_last_one_stopped(web, get, tmp_path):
    web.cut_after = [3000]
    interrupted(web, get)
    assert (tmp_path / "a.tgz.part").stat().st_size == 3000
    web.asked.clear()
    assert get(MD5) == DATA
    assert web.asked == [("/a.tgz", "bytes=3000-")]


def interrupted(web, get) -> None:
    """A call of which only one connection brings something."""
    answer, answers = web.answer, []

    def once(request):
        answers.append(request)
        if len(answers) > 1:
            web.status = [503]
        answer(request)

    web.answer = once
    kept = r"HTTP 503 Service Unavailable; the 3,000 bytes in .*a\.tgz\.part are kept, and the next try goes on there$"
    with pytest.raises(InputError, match=kept):
        get(MD5)
    web.answer = answer
    web.status = []


def test_a_server_that_knows_no_ranges_sends_all_again(web, get):
    web.ranges, web.cut_after = False, [3000]
    assert get(MD5) == DATA
    assert len(web.asked) == 2


def test_a_file_that_changed_since_is_fetched_as_a_whole(web, get, tmp_path):
    """The checksum of the two halves together says so."""
    web.cut_after, web.files["a.tgz"] = [3000], b"?" * 9000
    interrupted(web, get)
    web.files["a.tgz"] = DATA
    assert get(MD5) == DATA


@pytest.mark.parametrize(("length", "asked"), [(len(DATA), 1), (len(DATA) + 7, 2)])
def test_a_part_as_long_as_the_file_or_longer(web, get, tmp_path, length, asked):
    (tmp_path / "a.tgz.part").write_bytes((DATA + b"surplus")[:length])
    assert get(MD5) == DATA
    assert len(web.asked) == asked


def test_a_server_that_recovers(web, get):
    web.status = [503, 500]
    assert get(MD5) == DATA


def test_a_wrong_checksum(web, get, tmp_path):
    web.files["a.tgz"] = DATA[:-1] + b"?"
    with pytest.raises(
        InputError, match=rf"^cannot download http://.*/a\.tgz: its checksum is none of {MD5}, sha256:1$"
    ):
        get(MD5, "sha256:1")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there(web, get):
    del web.files["a.tgz"]
    with pytest.raises(InputError, match=r"^cannot download http://.*/a\.tgz: HTTP 404 Not Found$"):
        get(MD5)
    assert len(web.asked) == 1


def test_no_server(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "PAUSE", 0.0)
    with pytest.raises(InputError, match=r"^cannot download http://127\.0\.0\.1:1/a: .*refused$"):
        download("http://127.0.0.1:1/a", tmp_path / "a", digests={})


@pytest.mark.timeout(60)
def test_a_fifo_in_the_place_of_a_part_is_not_waited_for(web, get, tmp_path):
    os.mkfifo(tmp_path / "a.tgz.part")
    with pytest.raises(InputError, match=r"a\.tgz\.part is a FIFO and not a regular file: it is not opened"):
        get(MD5)


@pytest.mark.parametrize("method", ["write", "close"])
def test_a_full_disk(web, monkeypatch, tmp_path, method):
    """The system says so at a write, or when the last bytes are flushed."""

    class Full(io.BytesIO):
        def fail(self, *_):
            raise OSError(errno.ENOSPC, "No space left on device")

    setattr(Full, method, Full.fail)
    real = module.Path.open
    opened = lambda path, *args, **kwargs: Full() if path.suffix == ".part" else real(path, *args, **kwargs)  # noqa: E731
    monkeypatch.setattr(module.Path, "open", opened)
    with pytest.raises(InputError, match=r"^cannot write into .*: No space left on device$"):
        fetch(web.address + "pets.tgz", tmp_path)


def test_fits(tmp_path):
    (tmp_path / "a").write_bytes(DATA)
    assert fits(tmp_path / "a", {})
    assert fits(tmp_path / "a", by_kind("md5:0", SHA))
    assert not fits(tmp_path / "a", by_kind("md5:0", "sha256:0"))


def test_fetch(web, tmp_path):
    folder = fetch(web.address + "pets.tgz", tmp_path / "new" / "data")
    assert folder == tmp_path / "new" / "data" / "pets"
    assert (folder / "train" / "a.txt").read_bytes() == b"one" * 5000
    assert [p.name for p in folder.parent.iterdir() if not p.name.endswith(".lock")] == ["pets"]  # no archive


def test_the_second_time_nothing_is_asked_for(web, tmp_path):
    for _ in range(2):
        fetch(web.address + "pets.tgz", tmp_path)
    assert len(web.asked) == 1


def test_an_archive_that_lies_there_is_not_downloaded(web, tmp_path):
    (tmp_path / "pets.tgz").write_bytes(GOOD)
    assert (fetch(web.address + "pets.tgz", tmp_path) / "val").is_dir()
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


def test_a_data_folder_that_cannot_be_written(web, tmp_path):
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(InputError, match=r"^cannot write into .*data: File exists$"):
        fetch(web.address + "pets.tgz", tmp_path / "data")
