"""Read weights from files of other programs: find the state dict in a file, and strip prefixes of its names.

Trainers save a state dict or a whole module inside dicts of other things. Prefixes of wrappers are stripped if all
names have them.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from torch import Tensor, nn

from attnconv import checks, files
from attnconv.foreign.bounds import Budget
from attnconv.foreign.stored import Storages, Stored
from attnconv.foreign.torch_file import read_torch_file
from attnconv.foreign.unpickler import Name, StandIn, kind_of
from attnconv.shown import quoted
from attnconv.weights import open_safetensors

Value = TypeVar("Value")
Tensors = dict[str, Tensor | Stored]
Place = tuple[tuple[str, ...], Tensors]  # the keys that led to tensors, and the tensors

PLAIN = ("state_dict", "model", "net", "params", "weights", "student")
AVERAGED = ("state_dict_ema", "model_ema", "params_ema", "ema", "teacher")
WHOLE = "all of it"  # where the weights are all that a file holds
MOST = 8  # nested wrappers
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "encoder_q.", "0.")
# MoCo also saves a key encoder and a queue; torch's averaged model also saves its number of updates.
LEFT_OUT = {"encoder_q.": ("encoder_k.", "queue"), "module.": ("n_averaged",)}
MOST_DICTS = 5  # nested dicts around the weights
VISITED = 30  # bytes charged for an entry that is visited, since a dict that contains itself is visited many times
NAMED = 300  # most bytes of memory for the place of a module or tensor, without its name


def find(value: Any, budget: Budget, *, average: bool) -> Place:
    """Return the state dict in ``value`` or, with ``average``, that of the averaged weights.

    Raises:
        InputError: there is none; the message lists the contents.
    """
    if place := _find(value, (), budget, average):
        return place
    label, held = budget.label, _held(value)
    if average:
        raise checks.InputError(f"{label} holds no averaged weights, under {' or '.join(AVERAGED)}: it holds {held}")
    if place := _find(value, (), budget, True):
        raise checks.InputError(
            f"{label} holds averaged weights alone, under {'.'.join(place[0])}: ask for them by average=True, "
            "on the command line by `attnconv import --average`"
        )
    raise checks.InputError(f"{label} holds no tensors by name: it holds {held}")


def _find(value: Any, keys: tuple[str, ...], budget: Budget, average: bool) -> Place | None:
    if len(keys) > MOST_DICTS:
        return None
    entries = _entries(value)
    budget.take(VISITED * (1 + len(entries)))
    if average and (place := _first(entries, AVERAGED, keys, budget, False)):
        return place
    if _is_module(value):
        return None if average else _place(keys, module_tensors(value, budget))
    if place := _first(entries, PLAIN, keys, budget, average):
        return place
    if average:
        return None
    return _place(keys, {key: item for key, item in entries.items() if isinstance(item, Tensor | Stored)})


def _first(
    entries: Mapping[Any, Any], names: tuple[str, ...], keys: tuple[str, ...], budget: Budget, average: bool
) -> Place | None:
    """Return the tensors under the first of ``names`` that has any."""
    for name in names:
        if name in entries and (place := _find(entries[name], (*keys, name), budget, average)):
            return place
    return None


def _place(keys: tuple[str, ...], tensors: Mapping[Any, Any]) -> Place | None:
    return (keys, {str(name): tensor for name, tensor in tensors.items()}) if tensors else None


def _entries(value: Any) -> Mapping[Any, Any]:
    """Return the entries of a dict, or the attributes of an object of an unknown class."""
    if isinstance(value, StandIn):
        return value.items or (value.state if isinstance(value.state, dict) else {})
    return value if isinstance(value, Mapping) else {}


def _module_state(value: Any) -> dict[Any, Any] | None:
    """Return the attributes of a module of an unknown class; None if ``value`` is not a module."""
    if isinstance(value, StandIn):
        first = value.args[0] if type(value.args) is tuple and value.args else None  # torch.fx saves them there
        for state in (value.state, first):
            if isinstance(state, dict) and isinstance(state.get("_modules"), dict) and "_parameters" in state:
                return state
    return None


def _is_module(value: Any) -> bool:
    return isinstance(value, nn.Module) or _module_state(value) is not None


def module_tensors(module: Any, budget: Budget) -> Tensors:
    """Return parameters and persistent buffers by their dotted names, as ``state_dict()`` of the module would.

    The ``budget`` bounds modules that appear in many places, and modules that contain each other.
    """
    if isinstance(module, nn.Module):
        return module.state_dict()
    found: Tensors = {}
    waiting: list[tuple[str, Any]] = [("", module)]
    while waiting:
        prefix, part = waiting.pop()
        if (state := _module_state(part)) is None:
            continue
        listed = state.get("_non_persistent_buffers_set")
        passing = {name for name in listed if type(name) is str} if isinstance(listed, (list, tuple)) else set()
        budget.take(NAMED * len(passing))
        for kind in ("_parameters", "_buffers"):
            for name, tensor in _entries(state.get(kind)).items():
                whole = f"{prefix}{name}"
                budget.take(NAMED + sys.getsizeof(whole))
                if isinstance(tensor, Stored) and not (kind == "_buffers" and name in passing):
                    found[whole] = tensor
        for name, child in reversed(list(state["_modules"].items())):
            whole = f"{prefix}{name}."
            budget.take(NAMED + sys.getsizeof(whole))
            waiting.append((whole, child))
    return found


def _held(value: Any) -> str:
    """Return the first names and kinds in ``value``, for a message."""
    entries = _entries(value)
    if not entries:
        return "nothing" if isinstance(value, Mapping) else f"no dict, but {quoted(kind_of(value))}"
    first = [f"{quoted(str(key))} ({quoted(kind_of(item))[1:-1]})" for key, item in list(entries.items())[:5]]
    return ", ".join(first) + (", ..." if len(entries) > 5 else "")


def stripped(tensors: Mapping[str, Value]) -> tuple[dict[str, Value], list[str], list[str]]:
    """Return the tensors with stripped names, the stripped prefixes, and the names that were left out."""
    found, taken_off, left_out = dict(tensors), [], []
    while len(taken_off) < MOST and (step := _one_step(found)):
        found, prefix, without = step
        taken_off.append(prefix)
        left_out += without
    return found, taken_off, left_out


def _one_step(tensors: dict[str, Value]) -> tuple[dict[str, Value], str, list[str]] | None:
    for prefix in WRAPPERS:
        aside = [name for name in tensors if name.startswith(LEFT_OUT.get(prefix, "\0"))]
        without = set(aside)
        rest = {name: tensor for name, tensor in tensors.items() if name not in without} if aside else tensors
        if rest and all(name.startswith(prefix) and len(name) > len(prefix) for name in rest):
            return {name.removeprefix(prefix): tensor for name, tensor in rest.items()}, prefix, aside
    bodies = ("backbone.", "head.")
    if all(name.startswith(bodies) for name in tensors) and any(name.startswith(bodies[0]) for name in tensors):
        short = {name.split(".", 1)[1]: tensor for name, tensor in tensors.items()}
        if len(short) == len(tensors) and all(short):
            both = any(name.startswith(bodies[1]) for name in tensors)
            return short, " and ".join(bodies if both else bodies[:1]), []
    return None


Source = str | PathLike[str] | Mapping[str, Any]
TENSOR, VALUE = 1500, 150  # most bytes of memory for one, without its numbers
DEEPEST = 100  # nested dicts and lists
HEADER = 4_000_000  # bytes of the longest header of safetensors: some ten thousand tensors


class NotPlainError(checks.InputError):
    """A file that holds something other than tensors and plain values."""


@dataclass(frozen=True)
class Found:
    """The weights in a file or dict.

    Args:
        tensors: by name, without prefixes of wrappers; on the CPU if they are from a file.
        label: of the file or dict, for messages.
        taken: the place that they were taken from, such as "state_dict_ema, without 'module.'".
    """

    tensors: dict[str, Tensor]
    label: str
    taken: str


def read_state_dict(source: Source, *, average: bool = False) -> Found:
    """Return the weights in ``source``. No code in the file runs.

    Weights may be in dicts and in whole modules of any class, under state_dict, model, net, params, weights and
    student. Prefixes that all names share are stripped: module., _orig_mod., model., net., encoder_q., 0., and
    backbone. with head.

    Args:
        source: a file of torch.save, in either of its formats, or of safetensors; or a dict read from one.
        average: take the averaged weights under state_dict_ema, model_ema, params_ema, ema or teacher.
    Raises:
        InputError: the file is missing, not regular, damaged, or would take more memory than twice its size and 100 MB;
            or it has no weights, and the message lists its contents.
    """
    if isinstance(source, Mapping):
        return _found(source, None, Budget("the state dict", 0), average)
    if not isinstance(source, (str, PathLike)):
        raise checks.InputTypeError(f"weights are read from a path or a state dict, not {type(source).__name__}")
    path = Path(source)
    with _opened(path) as (file, size):
        budget = Budget(str(path), size)
        if _is_safetensors(path, file, size):
            with open_safetensors(path, extra="train") as (_, stored):
                return _found(stored(), None, budget, average)
        value, storages = read_torch_file(file, size, budget)
        return _found(value, storages, budget, average)


def read_plain(path: Path) -> Any:
    """Return the object in a file of torch.save that holds only tensors and plain values.

    Raises:
        InputError: as `read_state_dict`, or it holds other objects.
    """
    with _opened(path) as (file, size):
        budget = Budget(str(path), size, longest=size)
        value, storages = read_torch_file(file, size, budget)
        return _plain(value, storages, budget, 0)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file and yield it with its size in bytes."""
    with checks.explained(f"cannot open {str(path)!r}", OSError, ValueError):  # ValueError: a null character in it
        try:
            file = files.opened(path, at_most=files.WEIGHTS)
        except (FileNotFoundError, IsADirectoryError) as error:
            what = ": it is a folder" if isinstance(error, IsADirectoryError) else ""
            raise checks.InputError(f"no file {path} to take weights from{what}") from None
    with file:
        yield file, os.fstat(file.fileno()).st_size


def _found(value: Any, storages: Storages | None, budget: Budget, average: bool) -> Found:
    keys, tensors = find(value, budget, average=average)
    budget.take(2 * sum(map(sys.getsizeof, tensors)))  # names before and after a prefix is stripped
    tensors, taken_off, left_out = stripped(tensors)
    taken = ".".join(keys) or WHOLE
    if taken_off:
        taken += ", without " + ", ".join(repr(prefix) for prefix in taken_off)
    if left_out:
        taken += f" and without {len(left_out)} tensors such as {left_out[0]!r}"
    made = {name: _made(tensor, storages, budget) for name, tensor in tensors.items()}
    return Found(made, budget.label, taken)


def _made(tensor: Tensor | Stored, storages: Storages | None, budget: Budget) -> Tensor:
    if isinstance(tensor, Tensor):
        return tensor.detach()
    assert storages is not None
    budget.take(TENSOR)
    with checks.explained(f"{budget.label} cannot be read", RuntimeError, MemoryError, OSError, ValueError):
        return storages.tensor(tensor)


def _plain(value: Any, storages: Storages, budget: Budget, depth: int) -> Any:
    """Return ``value`` with its tensors. Parts that appear twice are copied, so that work on the result is bounded."""
    budget.take(VALUE)
    if isinstance(value, (StandIn, Name)):
        raise NotPlainError(
            f"{budget.label} holds something other than tensors and plain values: {quoted(kind_of(value))}"
        )
    if depth > DEEPEST:
        raise checks.InputError(f"{budget.label} is damaged: what it holds is nested more than {DEEPEST} deep")
    if isinstance(value, Stored):
        return _made(value, storages, budget)
    if type(value) is dict:
        return {key: _plain(item, storages, budget, depth + 1) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(item, storages, budget, depth + 1) for item in value)
    return value


def _is_safetensors(path: Path, file: BinaryIO, size: int) -> bool:
    """True if the suffix or the first bytes say so: the length of a header, which is JSON."""
    start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    if path.suffix != ".safetensors" and (start[8:] != b"{" or length > size):
        return False
    if len(start) == 9 and HEADER < length <= size:
        raise checks.InputError(f"{path} has a header of {length} bytes, of which at most {HEADER} are read")
    return True
