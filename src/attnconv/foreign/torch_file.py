"""The two formats of torch.save: what a file holds, with descriptions for tensors, and where their bytes are.

The one since torch 1.6 is a zip archive. Python's zipfile and torch's own reader would unpack members that are
compressed, and believe what the directory says of their places. Here every member must be stored as it is, on bytes of
its own: their sum is then at most the file.
"""

import itertools
import struct
from typing import Any, BinaryIO

from attnconv import checks
from attnconv.foreign.stored import Storage, Storages, count_of, storage
from attnconv.foreign.unpickler import Budget, Part, Unpickler
from attnconv.shown import quoted

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of the format before torch 1.6
PICKLE = b"\x80"  # with which a pickle of protocol 2 or later begins
# Of zip archives.
MARK = b"PK\3\4"  # with which an archive begins, and each of its members
END, END_MARK = struct.Struct("<4s4H2LH"), b"PK\5\6"
LOCATOR, LOCATOR_MARK = struct.Struct("<4sLQL"), b"PK\6\7"
END_64, END_64_MARK = struct.Struct("<4sQ2H2L4Q"), b"PK\6\6"
ENTRY, ENTRY_MARK = struct.Struct("<4s6H3L5H2L"), b"PK\1\2"
LOCAL = struct.Struct("<4s5H3L2H")
FULL_16, FULL_32 = 0xFFFF, 0xFFFFFFFF  # in place of a number that stands in 64 bits elsewhere
ENCRYPTED, SIZES_LATER = 1 | 1 << 6 | 1 << 13, 1 << 3  # bits of a member's flags
COMMENT = (1 << 16) - 1  # bytes of the longest comment
MEMBER = 600  # bytes of memory that a member's entry takes at most, beside its name


def read_torch_file(file: BinaryIO, size: int, budget: Budget) -> tuple[Any, Storages]:
    """Return the object in ``file``, of ``size`` bytes, and the storages that its tensors lie on.

    Raises:
        InputError: it is no file of torch.save, damaged, or announces more than it has.
    """
    file.seek(0)
    try:
        start = file.read(len(MARK))
        if start == MARK:
            return _archive(file, size, budget)
        if not start.startswith(PICKLE):
            raise ValueError("it does not begin as one")
        return _legacy(file, size, budget)
    except checks.InputError:
        raise
    except Exception as error:  # a pickle that was changed can lead to nearly anything
        known = isinstance(error, (ValueError, EOFError, OSError))
        reason = checks.first_line(error) if known else "its pickle cannot be followed"
        raise checks.InputError(
            f"{budget.label} is cut short or damaged, or no file of torch.save: {reason}"
        ) from error


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
        ValueError, struct.error: it is damaged, a member is compressed or encrypted, two have one name, or share bytes.
    """
    start, length, count = _directory(file, size)
    budget.take(2 * length + MEMBER * (length // ENTRY.size))
    file.seek(start)
    directory = file.read(length)
    found: dict[str, tuple[int, int]] = {}
    used: list[tuple[int, int]] = []
    names: set[bytes] = set()
    at = 0
    while at < length:
        entry = ENTRY.unpack_from(directory, at)
        _, _, _, flags, method, _, _, _, packed, unpacked, *lengths, _, _, _, offset = entry
        text_at = at + ENTRY.size
        extra_at = text_at + lengths[0]
        name, extra = directory[text_at:extra_at], directory[extra_at : extra_at + lengths[1]]
        at = text_at + sum(lengths)
        if entry[0] != ENTRY_MARK or at > length:
            raise ValueError("its directory is not whole")
        text = name.decode("utf-8", "backslashreplace")
        if method != 0 or flags & ENCRYPTED:
            how = "encrypted" if flags & ENCRYPTED else "compressed"
            raise ValueError(f"its member {quoted(text)} is {how}, which torch.save never does")
        unpacked, packed, offset = _wide(extra, unpacked, packed, offset)
        if packed != unpacked:
            raise ValueError(f"its member {quoted(text)} has two sizes")
        if name.lower() in names:  # torch does not tell small letters from capitals
            raise ValueError(f"two of its members are named {quoted(text)}")
        names.add(name.lower())
        member = _behind_its_header(file, offset, name, unpacked, start)
        used.append((offset, member[1]))
        found[text] = member
    if len(found) != count:
        raise ValueError(f"it announces {count} members and has {len(found)}")
    used.sort()
    if any(end > after for (_, end), (after, _) in itertools.pairwise(used)):
        raise ValueError("two of its members share bytes")
    return found


def _directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Return start and length of the directory and the number of its entries."""
    first = max(0, size - COMMENT - END.size)
    file.seek(first)
    tail = file.read(size - first)
    at = tail.rfind(END_MARK)
    if at < 0:
        raise ValueError("it is cut short")
    _, disk, other, here, count, length, start, comment = END.unpack_from(tail, at)
    if at + END.size + comment != len(tail) or (disk, other) not in ((0, 0), (FULL_16, FULL_16)) or here != count:
        raise ValueError("its last record is not whole")
    end = first + at
    if end >= LOCATOR.size + END_64.size:
        file.seek(end - LOCATOR.size)
        mark, _, place, _ = LOCATOR.unpack(file.read(LOCATOR.size))
        if mark == LOCATOR_MARK:
            end -= LOCATOR.size
            if place != end - END_64.size:
                raise ValueError("its last record is not whole")
            file.seek(place)
            mark, _, _, _, disk, other, here, wide_count, wide_length, wide_start = END_64.unpack(
                file.read(END_64.size)
            )
            pairs = ((count, wide_count, FULL_16), (length, wide_length, FULL_32), (start, wide_start, FULL_32))
            if mark != END_64_MARK or here != wide_count or any(a not in (b, full) for a, b, full in pairs):
                raise ValueError("its two last records differ")
            end, count, length, start = place, wide_count, wide_length, wide_start
    if start + length != end:
        raise ValueError("its directory is not where it says")
    return start, length, count


def _wide(extra: bytes, unpacked: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Return the two sizes and the offset of an entry, of which those that are full stand in its extra field."""
    values = [unpacked, packed, offset]
    at = 0
    while FULL_32 in values and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            part = extra[at + 4 : at + 4 + length]
            for index, value in enumerate(values):
                if value == FULL_32:
                    (values[index],) = struct.unpack_from("<Q", part)
                    part = part[8:]
            break
        at += 4 + length
    if FULL_32 in values and at + 4 > len(extra):
        raise ValueError("a size of it is missing")
    return values[0], values[1], values[2]


def _behind_its_header(file: BinaryIO, offset: int, name: bytes, size: int, directory: int) -> tuple[int, int]:
    """Return the place of the ``size`` bytes of a member whose header is at ``offset``."""
    if offset + LOCAL.size > directory:
        raise ValueError("a member of it lies outside")
    file.seek(offset)
    mark, _, flags, method, _, _, _, packed, unpacked, name_length, extra = LOCAL.unpack(file.read(LOCAL.size))
    sizes = (size, FULL_32, 0) if flags & SIZES_LATER else (size, FULL_32)
    start = offset + LOCAL.size + name_length + extra
    if (
        mark != MARK
        or method != 0
        or flags & ENCRYPTED
        or packed not in sizes
        or unpacked not in sizes
        or file.read(name_length) != name
    ):
        raise ValueError(f"its directory and the header of {quoted(name.decode('utf-8', 'replace'))} differ")
    if start + size > directory:
        raise ValueError("a member of it lies outside")
    return start, start + size
