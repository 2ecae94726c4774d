"""The two formats of torch.save: the object in a file, with descriptions of its tensors, and the places of their bytes.

Since torch 1.6 a file is a zip archive. Python's zipfile reads its directory. Members are read here and never unpacked:
each must be stored uncompressed on bytes of its own, so their sum is at most the file.
"""

import encodings.cp437  # noqa: F401  which zipfile would import while a file is read
import itertools
import struct
import zipfile
from typing import Any, BinaryIO

from attnconv import checks
from attnconv.foreign.bounds import Budget, Part
from attnconv.foreign.stored import Storage, Storages, count_of, storage
from attnconv.foreign.unpickler import Unpickler
from attnconv.shown import quoted

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of the format before torch 1.6
PICKLE = b"\x80"  # with which a pickle of protocol 2 or later begins
MARK = b"PK\3\4"  # with which a zip archive begins, and the header of each member
LOCAL = struct.Struct("<4s5H3L2H")  # that header
ENTRY = 46  # bytes of the shortest entry in the directory
ENCRYPTED = 1 | 1 << 6 | 1 << 13  # bits of a member's flags
MEMBER = 900  # most bytes of memory for a member's entry, without its name


def read_torch_file(file: BinaryIO, size: int, budget: Budget) -> tuple[Any, Storages]:
    """Return the object in ``file``, of ``size`` bytes, and the storages of its tensors.

    Raises:
        InputError: it is no file of torch.save, is damaged, or announces more bytes than it has.
    """
    file.seek(0)
    with checks.explained(f"{budget.label} is cut short or damaged, or no file of torch.save", reason=_reason):
        start = file.read(len(MARK))
        if start == MARK:
            return _archive(file, size, budget)
        if not start.startswith(PICKLE):
            raise ValueError("it does not begin as one")
        return _legacy(file, size, budget)


def _reason(error: Exception) -> str:
    """Return why a file cannot be read; a changed pickle can raise nearly anything."""
    known = isinstance(error, (ValueError, EOFError, OSError, zipfile.BadZipFile))
    return checks.first_line(error) if known else "its pickle cannot be followed"


def _archive(file: BinaryIO, size: int, budget: Budget) -> tuple[Any, Storages]:
    found = _members(file, size, budget)
    pickles = [name for name in found if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise ValueError("it is a zip archive without one data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in found:
        raise ValueError("it is a program of TorchScript, whose state_dict() can be saved")
    if order := found.get(f"{folder}byteorder"):
        _require_little(Part(file, *order).read(min(8, order[1] - order[0])) == b"little")
    places = {
        name.removeprefix(f"{folder}data/"): member
        for name, member in found.items()
        if name.startswith(f"{folder}data/")
    }
    storages = Storages(file, places)

    def persistent(pid: tuple[Any, ...]) -> Storage:
        what, kind, key, _, count = pid
        _require_storage(what)
        found = storage(kind, key, count)
        storages.require(found)
        return found

    return Unpickler(Part(file, *found[pickles[0]]), budget, persistent).load(), storages


def _legacy(file: BinaryIO, size: int, budget: Budget) -> tuple[Any, Storages]:
    part = Part(file, 0, size)
    known: dict[str, Storage] = {}

    def persistent(pid: tuple[Any, ...]) -> Any:
        if pid[0] == "module":  # a class, with the file and the text of its source
            return pid[1]
        what, kind, key, _, count, view = pid
        _require_storage(what)
        whole = storage(kind, key, count)
        if whole.bytes_needed > size:
            raise ValueError(f"a storage of {whole.bytes_needed} bytes is announced in a file of {size}")
        if known.setdefault(key, whole).bytes_needed != whole.bytes_needed:
            raise ValueError("a storage has two sizes")
        return storage(kind, key, count, view)

    if Unpickler(part, budget).load() != MAGIC or Unpickler(part, budget).load() != PROTOCOL:
        raise ValueError("it does not begin as one")
    system = Unpickler(part, budget).load()
    _require_little(not isinstance(system, dict) or system.get("little_endian", True) is True)
    value = Unpickler(part, budget, persistent).load()
    keys = Unpickler(part, budget).load()
    places: dict[str, tuple[int, int]] = {}
    if type(keys) is not list or any(type(key) is not str for key in keys) or set(keys) != known.keys():
        raise ValueError("its list of storages is not of those that it uses")
    for key in keys:
        (count,) = struct.unpack("<q", part.read(8))
        whole = known[key]
        if count_of(count) != whole.count or whole.bytes_needed > part.end - part.at:
            raise ValueError(
                f"a storage of {whole.bytes_needed} bytes is announced where {part.end - part.at} are left"
            )
        places[key] = (part.at, part.at + whole.bytes_needed)
        part = Part(file, places[key][1], size)
    return value, Storages(file, places)


def _require_storage(what: Any) -> None:
    if what != "storage":
        raise ValueError("a persistent id of something else than a storage")


def _require_little(little: bool) -> None:
    if not little:
        raise ValueError("it was saved on a machine of another byte order")


def _members(file: BinaryIO, size: int, budget: Budget) -> dict[str, tuple[int, int]]:
    """Return where in ``file``, an archive of ``size`` bytes, each member starts and ends, by name.

    Raises:
        ValueError, BadZipFile: it is damaged, a member is compressed or encrypted, two have one name, or share bytes.
    """
    end = zipfile._EndRecData(file)  # pyright: ignore[reportAttributeAccessIssue]
    if end is None or (length := end[5]) > size:  # bytes of the directory
        raise ValueError("it is cut short")
    budget.take(2 * length + MEMBER * (length // ENTRY))  # before zipfile takes it
    with zipfile.ZipFile(file) as archive:
        entries, directory = archive.infolist(), archive.start_dir
    found: dict[str, tuple[int, int]] = {}
    names: set[str] = set()
    used: list[tuple[int, int]] = []
    for entry in entries:
        name = quoted(entry.orig_filename)
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & ENCRYPTED:
            how = "encrypted" if entry.flag_bits & ENCRYPTED else "compressed"
            raise ValueError(f"its member {name} is {how}, which torch.save never does")
        if entry.compress_size != entry.file_size:
            raise ValueError(f"its member {name} has two sizes")
        if entry.orig_filename.lower() in names:  # torch does not tell small letters from capitals
            raise ValueError(f"two of its members are named {name}")
        names.add(entry.orig_filename.lower())
        found[entry.orig_filename] = _, end = _place(file, entry, directory)
        used.append((entry.header_offset, end))
    if any(end > after for (_, end), (after, _) in itertools.pairwise(sorted(used))):
        raise ValueError("two of its members share bytes")
    return found


def _place(file: BinaryIO, entry: zipfile.ZipInfo, directory: int) -> tuple[int, int]:
    """Return start and end of a member's bytes, behind its header, which must be as the directory says."""
    if not 0 <= entry.header_offset <= directory - LOCAL.size:
        raise ValueError("a member of it lies outside")
    file.seek(entry.header_offset)
    mark, _, flags, method, *_, name_length, extra = LOCAL.unpack(file.read(LOCAL.size))
    name = file.read(name_length).decode("utf-8" if flags & 1 << 11 else "cp437")
    if mark != MARK or method or flags & ENCRYPTED or name != entry.orig_filename:
        raise ValueError(f"its directory and the header of {quoted(entry.orig_filename)} differ")
    start = entry.header_offset + LOCAL.size + name_length + extra
    if start + entry.file_size > directory:
        raise ValueError("a member of it lies outside")
    return start, start + entry.file_size
