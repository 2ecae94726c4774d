"""Tensors as a file describes them, a storage with sizes and strides, which are made on request.

Before memory is taken, a description is compared with its storage, and the storage with the bytes in the file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from attnconv import files

AXES = 64  # torch's most
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
# Classes of typed storages, whose names files contain.
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """Elements of ``dtype`` under ``key`` in the file, ``count`` from element ``first`` on."""

    key: str
    dtype: torch.dtype
    count: int
    first: int = 0

    @property
    def bytes_needed(self) -> int:
        return (self.first + self.count) * self.dtype.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A tensor: ``size`` and ``stride`` on ``storage`` from element ``offset`` on."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.size


def count_of(value: Any) -> int:
    """Return ``value`` if it is an int of at least 0."""
    if type(value) is not int or value < 0:
        raise ValueError("a size, stride or offset is negative or no integer")
    return value


def storage(kind: Any, key: Any, count: Any, view: Any = None) -> Storage:
    """Return the storage of a persistent id; ``kind`` is the dtype of its class.

    Raises:
        ValueError: the id does not describe a storage.
    """
    if not isinstance(kind, torch.dtype) or type(key) is not str:
        raise ValueError("a storage of an unknown class or name")
    if view is None:
        return Storage(key, kind, count_of(count))
    _, first, length = view
    if count_of(first) + count_of(length) > count_of(count):
        raise ValueError("a view is larger than its storage")
    return Storage(key, kind, length, first)


def stored(on: Any, offset: Any, size: Any, stride: Any, dtype: torch.dtype | None = None) -> Stored:
    """Return the tensor that torch's rebuild functions make of these arguments.

    Raises:
        ValueError: it reaches outside its storage or has more elements.
    """
    if not isinstance(on, Storage):
        raise ValueError("a tensor without a storage")
    size, stride = _sizes(size), _sizes(stride)
    if len(size) != len(stride):
        raise ValueError("a tensor has other numbers of sizes and strides")
    dtype = dtype or on.dtype
    elements = 1
    for length in size:
        elements *= length
    present = on.count * on.dtype.itemsize // dtype.itemsize
    end = count_of(offset)
    if elements:
        end += 1 + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if end > present:
        raise ValueError("a tensor is larger than its storage")
    if elements > present:
        raise ValueError("a tensor has more elements than its storage")
    return Stored(on, dtype, offset, size, stride)


def _sizes(values: Any) -> tuple[int, ...]:
    if type(values) not in (tuple, list) or len(values) > AXES:
        raise ValueError("sizes and strides must be at most 64 integers")
    return tuple(count_of(value) for value in values)


class Storages:
    """The bytes of a file's storages, each read once.

    Args:
        file: the file.
        places: start and end of each storage in the file, by key.
    """

    def __init__(self, file: BinaryIO, places: Mapping[str, tuple[int, int]]) -> None:
        self._file, self._places = file, places
        self._read: dict[str, Tensor] = {}

    def require(self, storage: Storage) -> None:
        """Raise ValueError unless the file has the bytes of ``storage``."""
        start, end = self._places.get(storage.key, (0, -1))
        if storage.bytes_needed > end - start:
            raise ValueError(f"a storage of {storage.bytes_needed} bytes is announced where {max(0, end - start)} are")

    def tensor(self, stored: Stored) -> Tensor:
        """Return the tensor; tensors on one storage share memory, as they did when they were saved."""
        storage = stored.storage
        start = storage.first * storage.dtype.itemsize
        elements = self._bytes(storage.key)[start : storage.bytes_needed]
        elements = elements[: len(elements) // stored.dtype.itemsize * stored.dtype.itemsize].view(stored.dtype)
        first = elements.storage_offset()
        return elements.as_strided(stored.size, stored.stride, first + (stored.offset if elements.numel() else 0))

    def _bytes(self, key: str) -> Tensor:
        if key not in self._read:
            start, end = self._places[key]
            files.require_memory("a storage of it", end - start)
            whole = torch.empty(end - start, dtype=torch.uint8)
            self._file.seek(start)
            if self._file.readinto(whole.numpy()) != end - start:  # pyright: ignore[reportAttributeAccessIssue]
                raise ValueError("the file has become shorter")
            self._read[key] = whole
        return self._read[key]
