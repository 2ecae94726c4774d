"""Read weights from files that other programs wrote."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from attnconv import checks, files
from attnconv.foreign.state_dict import find, stripped
from attnconv.foreign.stored import Storages, Stored
from attnconv.foreign.torch_file import read_torch_file
from attnconv.foreign.unpickler import Budget, Name, StandIn, kind_of
from attnconv.shown import quoted
from attnconv.weights import open_safetensors

Source = str | PathLike[str] | Mapping[str, Any]
TENSOR, VALUE = 1500, 150  # bytes of memory that one takes at most, beside its numbers
DEEPEST = 100  # dicts and lists in each other
HEADER = 4_000_000  # bytes of the longest header of safetensors that is read: some ten thousand tensors


class NotPlainError(checks.InputError):
    """A file that holds something other than tensors and plain values."""


@dataclass(frozen=True)
class Found:
    """The weights in a file or dict.

    Args:
        tensors: by name, without what wrappers put in front of all names; on the CPU if they are from a file.
        label: of the file or dict, for messages.
        taken: a clause on what was taken, such as "state_dict_ema, without 'module.'".
    """

    tensors: dict[str, Tensor]
    label: str
    taken: str


def read_state_dict(source: Source, *, average: bool = False) -> Found:
    """Return the weights in ``source``, of which nothing is run.

    They are looked for in dicts and in whole modules of any class, under state_dict, model, net, params, weights and
    student.
    The names lose what they all share of module., _orig_mod., model., net., encoder_q., 0., and backbone. with head.

    Args:
        source: a file of torch.save, in either of its formats, or of safetensors; or a dict that was read from one.
        average: take the averaged weights that are beside the others, under state_dict_ema, model_ema, params_ema, ema
            or teacher.
    Raises:
        InputError: the file is missing, no regular one, damaged, or would take more memory than twice its size and 100
            MB; or it has no weights, where the message says what it has.
    """
    if isinstance(source, Mapping):
        return _found(source, None, Budget("the state dict", 0), average)
    if not isinstance(source, (str, PathLike)):
        raise checks.InputTypeError(f"weights are read from a path or a state dict, not {type(source).__name__}")
    path = Path(source)
    with _opened(path) as (file, size):
        budget = Budget(str(path), size)
        if _is_safetensors(path, file, size):
            with open_safetensors(path, extra="train") as opened:
                return _found(opened.tensors(), None, budget, average)
        value, storages = read_torch_file(file, size, budget)
        return _found(value, storages, budget, average)


def read_plain(path: Path) -> Any:
    """Return the object in a file of torch.save that holds tensors and plain values alone.

    Raises:
        InputError: as `read_state_dict`, or it holds something else.
    """
    with _opened(path) as (file, size):
        budget = Budget(str(path), size)
        value, storages = read_torch_file(file, size, budget)
        return _plain(value, storages, budget, 0)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file and yield it with its size in bytes."""
    try:
        file = files.opened(path, at_most=files.WEIGHTS)
    except (FileNotFoundError, IsADirectoryError) as error:
        what = ": it is a folder" if isinstance(error, IsADirectoryError) else ""
        raise checks.InputError(f"no file {path} to take weights from{what}") from None
    except checks.InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise checks.InputError(f"cannot open {str(path)!r}: {checks.first_line(error)}") from error
    with file:
        yield file, os.fstat(file.fileno()).st_size


def _found(value: Any, storages: Storages | None, budget: Budget, average: bool) -> Found:
    place = find(value, budget, average=average)
    tensors, taken_off, left_out = stripped(place.tensors)
    taken = ".".join(place.keys) or "all of it"
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
    try:
        return storages.tensor(tensor)
    except (RuntimeError, MemoryError, OSError, ValueError) as error:
        raise checks.InputError(f"{budget.label} cannot be read: {checks.first_line(error)}") from error


def _plain(value: Any, storages: Storages, budget: Budget, depth: int) -> Any:
    """Return ``value`` with its tensors made. What stands in it twice is copied, so that work on it is bounded."""
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
