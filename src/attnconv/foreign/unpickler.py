"""An unpickler that builds plain values and descriptions of tensors, and neither imports nor calls anything.

It is Python's own, `pickle._Unpickler`, with every instruction replaced that would import, call, set attributes, or
take more memory than its bytes account for. (The one in C takes 1.5 GB for ten bytes.) The few functions that tensors
need are written here; every other call becomes a stand-in.
"""

import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from attnconv.foreign.bounds import Budget, Part
from attnconv.foreign.stored import DTYPES, STORAGES, Stored, count_of, stored

# Most bytes of memory for an instruction that pushes a small object, and for any other.
SMALL, LARGE = 56, 300
PER_BYTE = 6  # of text or a number: the byte itself, and up to 4 for its letter
PER_ENTRY = 150  # of a dict
PER_AXIS = 16  # of a tensor, in its size and its stride
LONGEST_INT = 255  # bytes
LARGEST_KEY = 1 << 60  # numbers that differ by a multiple of 2**61 - 1 have the same hash
KEYS = (str, int, float, bool, type(None), bytes)  # with quick hashes
_SMALL = {
    *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.BINFLOAT, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE),
    *(pickle.BINGET, pickle.LONG_BINGET, pickle.GET, pickle.DUP, pickle.POP, pickle.APPEND, pickle.STOP),
    *(pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
}


@dataclass(frozen=True, slots=True)
class Name:
    """The name of a class or function in a file, which is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class StandIn:
    """An object as a file describes it: its class or function, the arguments and the state.

    Args:
        made_by: the class or function, usually a Name.
        args: its arguments.
        state: for its ``__setstate__`` or ``__dict__``.
        items: entries of a kind of dict.
        elements: elements of a kind of list.
    """

    made_by: Any
    args: Any = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)


def kind_of(value: Any) -> str:
    """Return the name of the class of ``value``, as the file has it."""
    if isinstance(value, StandIn):
        return str(value.made_by) if isinstance(value.made_by, Name) else "an object"
    return str(value) if isinstance(value, Name) else type(value).__name__


_Python: Any = pickle._Unpickler  # pyright: ignore[reportAttributeAccessIssue]


class Unpickler(_Python):
    """Read one pickle of a file.

    Args:
        part: of the file, that begins with the pickle.
        budget: for all that is built.
        storage: returns the object of a persistent id, a tuple.
    """

    # Attributes of Python's class, which has no types.
    stack: list[Any]
    memo: dict[int, Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    load: Callable[[], Any]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]]

    def __init__(self, part: Part, budget: Budget, storage: Callable[[tuple[Any, ...]], Any] | None = None) -> None:
        super().__init__(part, encoding="latin-1")  # files of Python 2; every byte is a letter
        self._part, self.budget, self._storage = part, budget, storage

    def find_class(self, module: str, name: str) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return a dtype for a dtype or a class of storages, and the name of anything else."""
        if module in ("torch", "torch.cuda", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        return DTYPES[name] if module == "torch" and name in DTYPES else Name(module, name)

    def persistent_load(self, pid: Any) -> Any:
        if self._storage is None or type(pid) is not tuple:
            raise ValueError("a persistent id that torch.save does not write")
        return self._storage(pid)

    def call(self, function: Any, args: Any) -> Any:
        """Return the result of ``function`` if it is KNOWN, else a stand-in."""
        known = KNOWN.get((function.module, function.name)) if isinstance(function, Name) else None
        if known is None or type(args) is not tuple:
            return StandIn(function, args)
        made = known(self, *args)
        return StandIn(function, args) if made is NotImplemented else made

    def _dict(self, given: Any = ()) -> dict[Any, Any]:
        """Return a dict of ``given``, a dict or pairs."""
        pairs = list(given.items()) if isinstance(given, dict) else given
        made: dict[Any, Any] = {}
        self.budget.take(PER_ENTRY * len(pairs))
        for key, value in pairs:
            put(made, key, value)
        return made

    # Instructions.

    def _frame(self) -> None:
        self._part.read(8)  # the length of a frame, which is not needed

    def _size(self, format: str) -> int:
        (size,) = struct.unpack(format, self._part.read(struct.calcsize(format)))
        return size

    def _bytes(self, format: str, made: Callable[[bytes], Any] = bytes) -> None:
        size = self._size(format)
        if size > self.budget.longest:
            self._part.skip(size)
            self.append(StandIn(Name("builtins", "str" if made is not bytes else "bytes")))
            return
        self.budget.take(PER_BYTE * size)
        self.append(made(self._part.read(size)))

    def _text(self, format: str) -> None:
        self._bytes(format, lambda value: str(value, "utf-8", "surrogatepass"))

    def _latin(self, format: str) -> None:
        self._bytes(format, lambda value: str(value, "latin-1"))

    def _long(self, format: str) -> None:
        if (size := self._size(format)) > LONGEST_INT:
            raise ValueError("an integer of more than 255 bytes")
        self.append(pickle.decode_long(self._part.read(size)))

    def _line(self, encoding: str = "utf-8") -> str:
        line = self._part.readline()[:-1]
        self.budget.take(PER_BYTE * len(line))
        return str(line, encoding)

    def _global(self) -> None:
        module = self._line()
        self.append(self.find_class(module, self._line()))

    def _stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise ValueError("a name that is no text")
        self.append(self.find_class(module, name))

    def _extension(self, size: int) -> None:
        self.append(Name("copyreg", f"extension {int.from_bytes(self._part.read(size), 'little')}"))

    def _reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], args)

    def _newobj_ex(self) -> None:
        keywords, args = self.stack.pop(), self.stack.pop()
        self.stack[-1] = StandIn(self.stack[-1], (args, keywords))

    def _inst(self) -> None:
        self._global()
        made_by = self.stack.pop()
        args = self.pop_mark()  # after which append is another
        self.append(StandIn(made_by, tuple(args)))

    def _obj(self) -> None:
        made_by, *args = self.pop_mark()
        self.append(StandIn(made_by, tuple(args)))

    def _frozenset(self) -> None:
        items = self.pop_mark()
        self.append(items)

    def _build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], StandIn):
            self.stack[-1].state = state

    def _set(self, items: list[Any]) -> None:
        onto = self.stack[-1]
        onto = onto.items if isinstance(onto, StandIn) else onto
        if type(onto) is not dict:
            raise ValueError("an entry for something that is no dict")
        self.budget.take(PER_ENTRY * (len(items) // 2))
        for key, value in zip(items[::2], items[1::2], strict=True):
            put(onto, key, value)

    def _make_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set(items)

    def _extend(self, items: list[Any]) -> None:
        onto = self.stack[-1]
        onto = onto.elements if isinstance(onto, StandIn) else onto
        if type(onto) is not list:
            raise ValueError("an element for something that is no list")
        onto.extend(items)

    def _put(self, index: int) -> None:
        if count_of(index) >= 1 << 32:
            raise ValueError("a place in the memo that pickle does not have")
        self.memo[index] = self.stack[-1]


def put(onto: dict[Any, Any], key: Any, value: Any) -> None:
    """Set an entry, unless hashing its key could take forever."""
    if _is_key(key) or (type(key) is tuple and len(key) < 9 and all(map(_is_key, key))):
        onto[key] = value


def _is_key(value: Any) -> bool:
    return type(value) in KEYS and (type(value) not in (int, float) or -LARGEST_KEY < value < LARGEST_KEY)


def _tensor(
    reader: Unpickler,
    on: Any,
    offset: Any,
    size: Any,
    stride: Any,
    grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
    *,
    dtype: torch.dtype | None = None,
) -> Stored:
    if isinstance(metadata, dict) and any(metadata.get(key) for key in ("conj", "neg")):
        raise ValueError("a tensor's numbers are saved conjugated or negated")
    made = stored(on, offset, size, stride, dtype)
    reader.budget.take(PER_AXIS * len(made.size))
    return made


def _tensor_v3(
    reader: Unpickler, on: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any
) -> Stored:
    if not isinstance(dtype, torch.dtype):
        raise ValueError("a tensor of no dtype")
    return _tensor(reader, on, offset, size, stride, grad, hooks, *rest, dtype=dtype)


def _typed_tensor(reader: Unpickler, function: Any, kind: Any, args: Any, state: Any) -> Any:
    is_tensor = isinstance(function, Name) and KNOWN.get((function.module, function.name)) in (_tensor, _tensor_v3)
    return reader.call(function, args) if is_tensor else NotImplemented


def _first(_: Any, tensor: Any, *rest: Any) -> Any:
    return tensor


def _list(_: Any, *args: Any) -> Any:
    if len(args) > 1:
        return NotImplemented
    return args[0] if args and type(args[0]) in (list, tuple) else []


def _text(_: Any, *args: Any) -> Any:
    return args[0] if args and type(args[0]) is str else NotImplemented


# Functions and classes that are known here; they return NotImplemented for a stand-in.
KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch._tensor", "_rebuild_from_type_v2"): _typed_tensor,
    ("torch", "Size"): _list,
    ("torch", "device"): _text,
    ("collections", "OrderedDict"): Unpickler._dict,
    ("collections", "defaultdict"): lambda *_: {},
    **{(module, "dict"): Unpickler._dict for module in ("builtins", "__builtin__")},
    **{
        (module, name): _list
        for module in ("builtins", "__builtin__")
        for name in ("list", "tuple", "set", "frozenset")
    },
}

_INSTRUCTIONS: dict[bytes, Callable[[Unpickler], None]] = {
    pickle.FRAME: Unpickler._frame,
    pickle.SHORT_BINUNICODE: lambda self: self._text("<B"),
    pickle.BINUNICODE: lambda self: self._text("<I"),
    pickle.BINUNICODE8: lambda self: self._text("<Q"),
    pickle.UNICODE: lambda self: self.append(self._line("raw-unicode-escape")),
    pickle.SHORT_BINSTRING: lambda self: self._latin("<B"),
    pickle.BINSTRING: lambda self: self._latin("<I"),
    pickle.STRING: lambda self: self.append(self._line("latin-1")[1:-1]),
    pickle.SHORT_BINBYTES: lambda self: self._bytes("<B"),
    pickle.BINBYTES: lambda self: self._bytes("<I"),
    pickle.BINBYTES8: lambda self: self._bytes("<Q"),
    pickle.BYTEARRAY8: lambda self: self._bytes("<Q"),
    pickle.LONG1: lambda self: self._long("<B"),
    pickle.LONG4: lambda self: self._long("<I"),
    pickle.PERSID: lambda self: self.append(self.persistent_load(self._line())),
    pickle.GLOBAL: Unpickler._global,
    pickle.STACK_GLOBAL: Unpickler._stack_global,
    pickle.EXT1: lambda self: self._extension(1),
    pickle.EXT2: lambda self: self._extension(2),
    pickle.EXT4: lambda self: self._extension(4),
    pickle.REDUCE: Unpickler._reduce,
    pickle.NEWOBJ: Unpickler._reduce,
    pickle.NEWOBJ_EX: Unpickler._newobj_ex,
    pickle.INST: Unpickler._inst,
    pickle.OBJ: Unpickler._obj,
    pickle.BUILD: Unpickler._build,
    pickle.SETITEM: lambda self: self._set([self.stack.pop(-2), self.stack.pop()]),
    pickle.SETITEMS: lambda self: self._set(self.pop_mark()),
    pickle.DICT: Unpickler._make_dict,
    pickle.APPEND: lambda self: self._extend([self.stack.pop()]),
    pickle.APPENDS: lambda self: self._extend(self.pop_mark()),
    # A set becomes a list, since its elements need not have hashes.
    pickle.EMPTY_SET: lambda self: self.append([]),
    pickle.ADDITEMS: lambda self: self._extend(self.pop_mark()),
    pickle.FROZENSET: Unpickler._frozenset,
    pickle.PUT: lambda self: self._put(int(self._line())),
    pickle.BINPUT: lambda self: self._put(self._part.read(1)[0]),
    pickle.LONG_BINPUT: lambda self: self._put(int.from_bytes(self._part.read(4), "little")),
    pickle.MEMOIZE: lambda self: self._put(len(self.memo)),
    pickle.GET: lambda self: self.append(self.memo[int(self._line())]),
    pickle.INT: lambda self: self.append(_int(self._line())),
    pickle.LONG: lambda self: self.append(int(self._line().rstrip("L"))),
    pickle.FLOAT: lambda self: self.append(float(self._line())),
}
# Python's own, which push a constant or move objects on the stack.
_AS_THEY_ARE = {
    *(pickle.PROTO, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK, pickle.DUP, pickle.BINGET),
    *(pickle.LONG_BINGET, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2),
    *(pickle.BINFLOAT, pickle.EMPTY_TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.TUPLE),
    *(pickle.EMPTY_LIST, pickle.LIST, pickle.EMPTY_DICT, pickle.BINPERSID),
}


def _int(line: str) -> int | bool:
    return {"00": False, "01": True}.get(line, int(line))


def _counted(instruction: Callable[[Any], None], cost: int) -> Callable[[Any], None]:
    def run(self: Unpickler) -> None:
        self.budget.take(cost)
        instruction(self)

    return run


Unpickler.dispatch = {
    code[0]: _counted(_INSTRUCTIONS.get(code) or _Python.dispatch[code[0]], SMALL if code in _SMALL else LARGE)
    for code in (*_INSTRUCTIONS, *_AS_THEY_ARE)
}
