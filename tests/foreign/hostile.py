"""Files that no trainer writes: archives as torch.save's around any pickle, and pickles made of their instructions."""

import pickle
import struct
import zipfile
from pathlib import Path

FLOATS = b"ctorch\nFloatStorage\n"
LINE = b"\n"


def archive(
    path: Path, content: bytes, data: dict[str, bytes] | None = None, *, method: int = zipfile.ZIP_STORED
) -> Path:
    """Write a zip file with ``content`` as its pickle and ``data`` as its storages."""
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("a/data.pkl", content)
        file.writestr("a/byteorder", "little")
        file.writestr("a/version", "3\n")
        for key, value in (data or {}).items():
            file.writestr(f"a/data/{key}", value)
    return path


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    """In as few bytes as pickle needs, and negative ones too."""
    return pickle.dumps(value, 2)[2:-1]


def sizes(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key: str = "0", count: int = 4, kind: bytes = FLOATS) -> bytes:
    """A storage of an archive."""
    return b"(" + text("storage") + kind + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(
    *, on: bytes | None = None, offset: int = 0, size: bytes = sizes(2, 2), stride: bytes = sizes(2, 1)
) -> bytes:
    start = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return start + (on or storage()) + number(offset) + size + stride + b"\x89" + b"}" + b"tR"


def named(name: str, value: bytes) -> bytes:
    """A dict of one entry, as a whole pickle."""
    return b"\x80\x02}" + text(name) + value + b"s."


def call(function: str, *args: bytes) -> bytes:
    module, _, name = function.rpartition(".")
    return b"c" + f"{module}\n{name}\n".encode() + b"(" + b"".join(args) + b"tR"


def legacy(content: bytes, keys: bytes, rest: bytes) -> bytes:
    """A file of the format before torch 1.6: the object's pickle, that of the storages' names, and their bytes."""
    start = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
    return b"".join(pickle.dumps(value, 2) for value in start) + content + keys + rest
