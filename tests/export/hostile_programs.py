"""Programs of torch.export that leave a mark when torch reads them: three ways in which such a file runs code.

Each takes a good file and makes a bad one of it, with a checksum that fits, as a stranger would.
"""

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attnconv.files import append_checksum

MODEL, CONSTANTS = "archive/models/model.json", "archive/data/constants/"
CONSTANTS_CONFIG = f"{CONSTANTS}model_constants_config.json"


def touched(mark: Path) -> str:
    """An expression of Python that makes ``mark``."""
    return f"__import__('pathlib').Path({str(mark)!r}).touch()"


def pickle_in_a_subfolder(good: Path, bad: Path, mark: Path) -> None:
    """A constant that is unpickled, in a folder below that of the constants."""

    class Payload:
        def __reduce__(self):
            return eval, (touched(mark),)

    file = "opaque_obj_0/inside"
    meta = {"path_name": file, "is_param": False, "use_pickle": True, "tensor_meta": None}
    config = json.dumps({"config": {"c": meta}}).encode()
    _packed_again(good, bad, {CONSTANTS_CONFIG: lambda _: config}, {f"{CONSTANTS}{file}": pickle.dumps(Payload())})


def guard(good: Path, bad: Path, mark: Path) -> None:
    """A condition on the inputs, which torch compiles."""

    def change(text: bytes) -> bytes:
        return json.dumps({**json.loads(text), "guards_code": [f"{touched(mark)} is None"]}).encode()

    _packed_again(good, bad, {MODEL: change})


def expression(good: Path, bad: Path, mark: Path) -> None:
    """A size of a map, which torch has SymPy evaluate."""

    def change(text: bytes) -> bytes:
        values = json.loads(text)
        assert _replaced(values, touched(mark))
        return json.dumps(values).encode()

    _packed_again(good, bad, {MODEL: change})


ATTACKS = (pickle_in_a_subfolder, guard, expression)


def _replaced(value: Any, text: str) -> bool:
    """True if a first "expr_str" was there to be replaced by ``text``."""
    if isinstance(value, dict) and "expr_str" in value:
        value["expr_str"] = text
        return True
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_replaced(one, text) for one in inner)


def _packed_again(
    good: Path, bad: Path, changes: dict[str, Callable[[bytes], bytes]], more: dict[str, bytes] | None = None
) -> None:
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(bad, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            new.writestr(info.filename, changes.pop(info.filename, bytes)(content))
        for name, content in (more or {}).items():
            new.writestr(name, content)
    assert not changes, f"there is no {', '.join(changes)}"
    with bad.open("r+b") as file:
        append_checksum(file)
