"""Zip files whose records say what is not so: each is refused in one line before a member is read."""

import struct
import zipfile

import pytest
import torch
from foreign.hostile import archive, named, storage, tensor

from attnconv.checks import InputError
from attnconv.foreign import read_plain, read_state_dict
from attnconv.train.checkpoint import load_checkpoint

CONTENT = named("w", tensor())
DATA = {"0": struct.pack("<4f", 1, 2, 3, 4)}
ENTRY, LOCAL, END = b"PK\1\2", b"PK\3\4", b"PK\5\6"


@pytest.fixture
def path(tmp_path):
    return archive(tmp_path / "w.pt", CONTENT, DATA)


def places(data: bytes, mark: bytes) -> list[int]:
    return [at for at in range(len(data)) if data.startswith(mark, at)]


def set_in(record: bytes, which: int, at: int, value: bytes):
    """Change bytes ``at`` the ``which``-th record of this kind."""

    def change(data: bytearray) -> None:
        start = places(data, record)[which] + at
        data[start : start + len(value)] = value

    return change


def both(*changes):
    def change(data: bytearray) -> None:
        for one in changes:
            one(data)

    return change


def offset_of_the_first(data: bytearray) -> None:
    """The last member is where the first is, too, in name and all."""
    first, *_, last = places(data, ENTRY)
    data[last + 42 : last + 46] = data[first + 42 : first + 46]


def size_of(which: int, size: int):
    """Give a member a size in both of its records."""
    places = ((LOCAL, 18), (LOCAL, 22), (ENTRY, 20), (ENTRY, 24))
    return both(*(set_in(record, which, at, struct.pack("<I", size)) for record, at in places))


def second_end(data: bytearray) -> None:
    """A record of an end in the comment: which of the two is read depends on the reader."""
    end = places(data, END)[0]
    data[end + 20 : end + 22] = struct.pack("<H", 22)
    data += END + bytes(18)


CHANGES = {
    "compressed in the directory": (
        set_in(ENTRY, 0, 10, b"\x08"),
        "its member 'a/data.pkl' is compressed, which torch.save",
    ),
    "compressed in its header": (set_in(LOCAL, 0, 8, b"\x08"), "the header of 'a/data.pkl' differ"),
    "encrypted": (set_in(ENTRY, 0, 8, b"\x01"), "its member 'a/data.pkl' is encrypted"),
    "encrypted in its header": (set_in(LOCAL, 0, 6, b"\x01"), "the header of 'a/data.pkl' differ"),
    "two sizes": (set_in(ENTRY, 0, 24, b"\xff\xff\xff\x7f"), "its member 'a/data.pkl' has two sizes"),
    "another name in its header": (set_in(LOCAL, 0, 30, b"b"), "the header of 'a/data.pkl' differ"),
    "one place twice": (offset_of_the_first, "the header of 'a/data/0' differ"),
    "over the next": (size_of(0, len(CONTENT) + 40), "two of its members share bytes"),
    "over the directory": (size_of(-1, 17), "a member of it lies outside"),
    "outside": (set_in(ENTRY, 0, 42, b"\xf0\xff\xff\x7f"), "a member of it lies outside"),
    "a size of 64 bits that is not there": (
        set_in(ENTRY, 0, 24, b"\xff\xff\xff\xff"),
        "its member 'a/data.pkl' has two sizes",
    ),
    "a directory elsewhere": (set_in(END, 0, 16, b"\x01\x00\x00\x00"), "a member of it lies outside|Bad"),
    "a directory that is none": (set_in(ENTRY, 1, 0, b"XXXX"), "Bad magic number for central directory"),
    "two ends": (second_end, "it is a zip archive without one data.pkl"),
    "no end": (set_in(END, 0, 0, b"XXXX"), "it is cut short"),
    "capital letters": (
        both(set_in(LOCAL, 2, 30, b"A/DATA.PKL"), set_in(ENTRY, 2, 46, b"A/DATA.PKL")),
        "two of its members are named 'A/DATA.PKL'",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_record(path, name):
    change, message = CHANGES[name]
    data = bytearray(path.read_bytes())
    if name == "capital letters":  # a member whose name is as long
        path = archive(path, CONTENT, DATA)
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a/data.pkl", CONTENT)
            file.writestr("a/data/0", DATA["0"])
            file.writestr("a/abcd.efg", b"")
        data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    with pytest.raises(
        InputError, match=r"^\S*w\.pt is cut short or damaged, or no file of torch\.save: [^\n]*" + message
    ):
        read_state_dict(path)


def test_the_file_without_a_change(path):
    assert read_state_dict(path).tensors["w"].tolist() == [[1, 2], [3, 4]]


def test_a_name_twice(path):
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as file:
        file.writestr("a/data/0", b"other")
    with pytest.raises(InputError, match="two of its members are named 'a/data/0'"):
        read_state_dict(path)


def test_sizes_of_64_bits_are_read(tmp_path):
    """As archives above 4 GB have them; Python writes them into a small one when it is told to."""
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as file:
        file.writestr("a/data.pkl", CONTENT)
        with file.open("a/data/0", "w", force_zip64=True) as member:
            member.write(DATA["0"])
    data = bytearray((tmp_path / "w.pt").read_bytes())
    # The sizes of the last entry go into 64 bits, and so does the end of the archive.
    entry, end = places(data, ENTRY)[-1], places(data, END)[0]
    extra = struct.pack("<2H3Q", 1, 24, 16, 16, places(data, LOCAL)[1])
    start, length = struct.unpack_from("<L", data, end + 16)[0], end - struct.unpack_from("<L", data, end + 16)[0]
    changed = bytearray(data[entry:end])
    changed[20:28], changed[42:46] = b"\xff" * 8, b"\xff" * 4
    changed[30:32] = struct.pack("<H", len(extra))
    changed += extra
    length += len(extra)
    place = start + length
    wide = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, length, start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, place, 1)
    last = struct.pack("<4s4H2LH", END, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    whole = bytes(data[:entry] + changed + wide + locator + last)
    (tmp_path / "w.pt").write_bytes(whole)
    assert read_state_dict(tmp_path / "w.pt").tensors["w"].tolist() == [[1, 2], [3, 4]]
    (tmp_path / "w.pt").write_bytes(whole.replace(wide, wide.replace(b"PK\6\6", b"PK\6\1")))
    with pytest.raises(InputError, match=r"w\.pt is cut short or damaged, or no file of torch\.save: it is cut short"):
        read_state_dict(tmp_path / "w.pt")


def test_torch_s_files_are_stored_and_their_comment_may_hold_a_checksum(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt", "a") as file:
        file.comment = b"attnconv-sha256:" + b"0" * 64
    assert read_state_dict(tmp_path / "w.pt").tensors["w"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a/data/0": b""}, "it is a zip archive without one data.pkl"),
        ({"a/data.pkl": CONTENT, "b/data.pkl": CONTENT}, "it is a zip archive without one data.pkl"),
        ({"a/data.pkl": CONTENT, "a/constants.pkl": b""}, "it is a program of TorchScript"),
        ({"a/data.pkl": CONTENT, "a/byteorder": b"big"}, "saved on a machine of another byte order"),
        ({"a/data.pkl": CONTENT}, "a storage of 16 bytes is announced where 0 are"),
        ({"a/data.pkl": CONTENT, "a/data/0": bytes(15)}, "a storage of 16 bytes is announced where 15 are"),
    ],
)
def test_archives_of_something_else(tmp_path, members, message):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    with pytest.raises(InputError, match=message):
        read_state_dict(tmp_path / "w.pt")


@pytest.mark.parametrize("read", [read_state_dict, read_plain, load_checkpoint])
def test_a_deflated_file_is_not_unpacked(tmp_path, read):
    path = archive(
        tmp_path / "w.pt", named("w", tensor(on=storage())), {"0": bytes(10**6)}, method=zipfile.ZIP_DEFLATED
    )
    assert path.stat().st_size < 2000
    with pytest.raises(InputError, match=r"its member 'a/data\.pkl' is compressed, which torch\.save never does"):
        read(path)
