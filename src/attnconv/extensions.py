"""The user's code: modules of --import, factories of networks, and entry points of installed packages.

Only names that the user gives are imported: on the command line, in Python, or in a configuration or a plan. A run, a
study's folder, an export or a repository may contain such names too, but imports nothing except what an installed
package offers as an entry point.
"""

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from importlib import import_module, metadata
from typing import Any

from attnconv import checks

LIBRARIES = ("torchvision", "timm")  # prefixes of network names, and values of init_from
imported: list[str] = []  # the modules of --import, in order, for other processes of the same command
_factories: dict[str, Callable[..., Any]] = {}


def import_modules(names: Iterable[str]) -> None:
    """Import modules by their dotted names, also from the current folder.

    Raises:
        InputError: there is no such module, or its code fails.
    """
    for name in names:
        _module(name, f"--import {name}")
        if name not in imported:
            imported.append(name)


def is_factory(name: str) -> bool:
    """True if ``name`` has the form of package.module:function."""
    module, colon, function = str(name).partition(":")
    dotted = all(part.isidentifier() for part in (*module.split("."), *function.split(".")))
    return bool(colon) and module not in LIBRARIES and dotted


def import_factory(name: str) -> Callable[..., Any]:
    """Import package.module:function, also from the current folder, and return the function for `factory` to find.

    Raises:
        InputError: it cannot be imported or is not callable.
    """
    module, _, function = name.partition(":")
    found: Any = _module(module, f"model {name!r}")
    for part in function.split("."):
        if not hasattr(found, part):
            known = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
            near = f"; {checks.nearest(function, known)}" if known else ""
            raise checks.InputError(f"model {name!r}: {module} has no {function!r}{near}")
        found = getattr(found, part)
    if not callable(found):
        raise checks.InputError(f"model {name!r}: {function} is not callable ({type(found).__name__})")
    _factories[name] = found
    return found


def factory(name: str) -> Callable[..., Any]:
    """Return the factory ``name`` if it was imported before; else raise InputError with the way to name it."""
    if name in _factories:
        return _factories[name]
    if (found := _of_import(name)) is not None:
        return found
    module = name.partition(":")[0]
    how = f"--model {name} or --import {module} again" if can_be_imported(name) else "--model package.module:function"
    raise checks.InputError(
        f"network {name!r} is made by your own code, which no file may import: give {how}, or the function as model= "
        "in Python"
    )


def can_be_imported(name: str) -> bool:
    """True if another process can import that factory: not from a script, a local scope or torch."""
    return is_factory(name) and name.partition(":")[0].partition(".")[0] not in ("__main__", "torch")


def _of_import(name: str) -> Callable[..., Any] | None:
    """Return the factory ``name`` if a module of --import defines it.

    ``name`` may come from an untrusted file, so names that the module imports itself, such as os.system, do not count.
    """
    module, _, function = name.partition(":")
    found = getattr(sys.modules.get(module), function, None) if module in imported else None
    if not (inspect.isfunction(found) or inspect.isclass(found)) or found.__module__ != module:
        return None
    return found if "num_classes" in inspect.signature(found).parameters else None


def remember_factory(function: Callable[..., Any], name: str | None = None) -> str:
    """Make `factory` find ``function``; return its name, package.module:function if ``name`` is None.

    Raises:
        InputError: ``name`` is that of a network that the user's code does not make.
    """
    if not callable(function):
        raise checks.InputTypeError(f"model must be a function that makes the network, got {type(function).__name__}")
    if name is None:
        name = f"{function.__module__}:{getattr(function, '__qualname__', type(function).__qualname__)}"
    elif ":" not in name or name.partition(":")[0] in LIBRARIES:
        raise checks.InputError(f"{name!r} is a network by name: leave model= and --model out")
    _factories[name] = function
    return name


def require_free(what: str, name: Any, new: Any, old: Any = None, *, taken: bool = False) -> None:
    """Raise unless ``new`` can have the name ``name``.

    Args:
        what: "a network", for example.
        old: the object registered under that name, if any.
        taken: True if attnconv itself uses the name.
    Raises:
        InputError: the name has characters other than letters, digits and ``._-``, or is taken.
    """
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
        raise checks.InputError(f"name of {what} must be of letters, digits and ._-, got {name!r}")
    if taken or (old is not None and not _same(old, new)):
        raise checks.InputError(f"there is {what} {name!r} already; give yours another name")


def _same(one: Any, other: Any) -> bool:
    """True for the same object, or the same function or class after a reload; never for lambdas."""
    names = [(getattr(f, "__module__", None), getattr(f, "__qualname__", "<>")) for f in (one, other)]
    return one is other or (names[0] == names[1] and "<" not in names[0][1])


def offered(group: str) -> dict[str, metadata.EntryPoint]:
    """Return the entry points of a group, such as attnconv.models, by name."""
    return {entry.name: entry for entry in metadata.entry_points(group=group)}


def load_offered(group: str, name: str) -> Any:
    """Return the object of the entry point ``name``; None if there is none.

    Raises:
        InputError: its import fails.
    """
    entry = offered(group).get(name)
    if entry is None:
        return None
    with user_code(f"{name!r} of group {group} cannot be imported"):
        return entry.load()


def user_code(what: str) -> AbstractContextManager[None]:
    """Turn an error of somebody's code inside the block into an InputError: "`what`: its class: the reason"."""
    return checks.explained(what, Exception, SystemExit, reason=lambda e: f"{type(e).__name__}: {checks.first_line(e)}")


def _module(name: str, what: str) -> Any:
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    with user_code(f"{what}: {name} cannot be imported"):
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
                script = f"; {name.removesuffix('.py')!r} names the file" if name.endswith(".py") else ""
                raise checks.InputError(
                    f"{what}: there is no module {error.name!r}, in {here} or installed{script}"
                ) from None
            raise checks.InputError(f"{what}: {name} needs {error.name!r}, which is not installed") from error
