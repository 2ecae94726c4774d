"""The two formats of torch.save: what a file holds, with descriptions for tensors, and where their bytes are."""

import struct
from typing import Any, BinaryIO

from attnconv import checks
from attnconv.foreign.archive import MARK, members
from attnconv.foreign.budget import Budget
from attnconv.foreign.part import Part
from attnconv.foreign.stored import Storage, Storages, count_of, storage
from attnconv.foreign.unpickler import Unpickler

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of the format before torch 1.6
PICKLE = b"\x80"  # with which a pickle of protocol 2 or later begins


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
    found = members(file, size, budget)
    pickles = [name for name in found if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise ValueError("it is a zip archive without one data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in found:
        raise ValueError("it is a program of TorchScript, whose state_dict() can be saved")
    if order := found.get(f"{folder}byteorder"):
        _require_little(Part(file, *order).read(min(8, order.end - order.start)) == b"little")
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
