"""Argument checks for all packages: one sentence per error, with the name, the value and the rule.

This module imports only the standard library, so that the command line can use it without torch.
"""

import contextlib
import difflib
import json
import math
import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

from attnconv.shown import shown

LARGEST_IMAGE = 4096  # pixels per side of prepared images
DEEPEST = 100  # levels of lists and dicts in a JSON file


class InputError(ValueError):
    """Invalid input that the caller can correct; the command line prints it on one line and exits with code 2.

    Names in the message may be untrusted, so ``shown`` escapes it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))


class InputTypeError(InputError, TypeError):
    """An argument of the wrong type."""


class MissingExtraError(InputError, ImportError):
    """A package is missing that a plain install does not include."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a clause with the known word closest to ``name``, or with all words if none is close."""
    known = [str(word) for word in known]
    if (best := closest(name, known, 1)) and _closeness(best[0], _bare(name)) >= 0.5:
        return f"nearest: {best[0]!r}"
    return f"known: {', '.join(sorted(known))}"


def closest(name: str, known: Iterable[str], count: int) -> list[str]:
    """Return the ``count`` known words closest to ``name``, closest first.

    Case and separators are ignored, a part of a word counts as half of its letters, and among equally close words the
    one with the longest common beginning comes first.
    """
    wanted = _bare(name)
    return sorted(
        known, key=lambda word: (_closeness(word, wanted), _letters_alike(_bare(word), wanted)), reverse=True
    )[:count]


def _closeness(word: str, wanted: str) -> float:
    bare = _bare(word)
    ratio = difflib.SequenceMatcher(None, bare, wanted).ratio()
    part = len(wanted) > 1 and len(bare) > 1 and (wanted in bare or bare in wanted)
    return max(ratio, 0.5) if part else ratio


def _letters_alike(one: str, other: str) -> int:
    """Return the length of the common beginning."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _bare(word: Any) -> str:
    return re.sub(r"[\W_]+", "", str(word).casefold())


def one_of(what: str, value: Any, known: Iterable[Any]) -> Any:
    """Return ``value`` if it is one of ``known``."""
    known = list(known)
    if value not in known:
        or_none = " or None (null in YAML)" if None in known else ""
        raise InputError(f"unknown {what} {value!r}; {nearest(value, (k for k in known if k is not None))}{or_none}")
    return value


def integer(what: str, value: Any, *, at_least: int) -> int:
    """Return ``value`` as an int that is ``at_least`` so large; bools and floats are refused."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InputTypeError(f"{what} must be an integer, got {value!r}")
    if (value := value.__index__()) < at_least:
        raise InputError(f"{what} must be at least {at_least}, got {value}")
    return value


def per_axis(what: str, value: Any, axes: int, *, at_least: int) -> tuple[int, ...]:
    """Return one integer per axis; a single int stands for all axes."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * axes
    if len(values) != axes:
        raise InputError(f"{what} must be one integer or {axes}, one for each axis of the map, got {value!r}")
    return tuple(integer(what, v, at_least=at_least) for v in values)


def rows_columns(what: str, value: Any) -> tuple[int, int]:
    """Return rows and columns of images, in pixels; a single int stands for both."""
    rows, columns = per_axis(what, value, 2, at_least=1)
    return rows, columns


def prepared_size(what: str, value: Any) -> tuple[int, int]:
    """Return rows and columns of prepared images, at most LARGEST_IMAGE pixels each."""
    sides = rows_columns(what, value)
    if max(sides) > LARGEST_IMAGE:
        raise InputError(f"{what} must be at most {LARGEST_IMAGE} per side, got {max(sides)}")
    return sides


def require(package: str, *, extra: str) -> ModuleType:
    """Return an imported optional dependency, or raise with the command that installs it."""
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package.partition(".")[0]:
            raise
        raise MissingExtraError(f"this needs {package}: pip install 'attnconv[{extra}]'") from None
    except (RuntimeError, OSError) as error:  # torchvision's, if it was built for another PyTorch
        if package.partition(".")[0] != "torchvision":
            raise
        names = " and ".join(f"{name} {installed_version(name)}" for name in ("torchvision", "torch"))
        raise InputError(
            f"{names} do not fit together ({first_line(error)}): install both anew, from one index"
        ) from error


def installed_version(package: str) -> str | None:
    """Return the installed version of ``package``; None if it is not installed."""
    from importlib import metadata  # here: it loads 49 modules

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def number(what: str, value: Any) -> float:
    """Return ``value`` as a finite float; text and bools are refused."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputTypeError(f"{what} must be a number, got {value!r}")
    try:
        found = float(value)
    except OverflowError:
        raise InputError(f"{what} must be finite, got an integer of more than 300 digits") from None
    if not math.isfinite(found):
        raise InputError(f"{what} must be finite, got {found}")
    return found


def from_json(text: str | bytes) -> Any:
    """Return the value of the JSON ``text``; raise ValueError if it is not JSON or nested more than DEEPEST deep."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} deep") from None
    inner = [value]
    for _ in range(DEEPEST):
        inner = [
            part
            for item in inner
            if isinstance(item, (dict, list))
            for part in (item.values() if isinstance(item, dict) else item)
        ]
    if inner:
        raise ValueError(f"it is nested more than {DEEPEST} deep")
    return value


def json_object(text: str | bytes) -> dict[str, Any] | None:
    """Return the JSON object in ``text``; None if it is not a JSON object."""
    with contextlib.suppress(ValueError):
        return value if isinstance(value := from_json(text), dict) else None
    return None


def flag(what: str, value: Any) -> bool:
    """Return ``value`` if it is True or False; text such as "no" is refused."""
    if not isinstance(value, bool):
        raise InputTypeError(f"{what} must be true or false, got {value!r}")
    return value


def first_line(error: BaseException) -> str:
    """Return at most 200 letters of the first line of the message of ``error``.

    Without a message: the line of a bare assertion, else the class of the error.
    """
    text = str(error).strip().partition("\n")[0]
    if not text and isinstance(error, AssertionError):
        lines = [frame.line or "" for frame in traceback.extract_tb(error.__traceback__)]
        text = next((line for line in reversed(lines) if re.match(r"(\w+\.)?_?assert\b", line)), "")
    return shown(text)[:200] or type(error).__name__


def reason_of(error: BaseException) -> str:
    """Return what the system says, for an OSError of its own, else `first_line`."""
    return (isinstance(error, OSError) and error.strerror) or first_line(error)


@contextlib.contextmanager
def explained(what: str, *kinds: type[BaseException], reason: Callable[[Any], str] = reason_of) -> Iterator[None]:
    """Turn errors of ``kinds`` (default: Exception) inside the block into InputError: "`what`: the reason".

    An InputError stays as it is.
    """
    try:
        yield
    except InputError:
        raise
    except kinds or Exception as error:  # noqa: B030
        raise InputError(f"{what}: {reason(error)}") from error


@contextlib.contextmanager
def prefixed(source: str) -> Iterator[None]:
    """Put "`source`: " before the message of an InputError inside the block."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{source}: {error}") from None


def plain(name: str, value: Any) -> Any:
    """Return a copy of ``value`` with tuples as lists, as YAML, JSON or a checkpoint returns it.

    Raises:
        InputTypeError: it contains anything but None, bools, numbers, text, lists and dicts with text keys.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(f"{name}[{i}]", item) for i, item in enumerate(value)]
    if isinstance(value, dict) and all(type(key) is str for key in value):
        return {key: plain(f"{name}[{key!r}]", item) for key, item in value.items()}
    raise InputTypeError(f"{name} must hold plain values (text, numbers, lists, dicts named by text), got {value!r}")
