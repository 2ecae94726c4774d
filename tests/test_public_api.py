"""The public interface is what public_api.txt says; a change of it is a change of that file, and of the CHANGELOG.

``python tests/test_public_api.py > tests/public_api.txt`` writes the file anew.
"""

import dataclasses
import difflib
import inspect
from importlib import import_module
from pathlib import Path

import pytest

FROZEN = Path(__file__).with_name("public_api.txt")
MODULES = (
    *("attnconv", "attnconv.ops", "attnconv.layers", "attnconv.models", "attnconv.surgery", "attnconv.compat"),
    *("attnconv.explain", "attnconv.export", "attnconv.data", "attnconv.recipes", "attnconv.study", "attnconv.checks"),
)
# Of packages without __all__ these are public.
WITHOUT_ALL = {
    "attnconv.checks": ("InputError", "InputTypeError", "MissingExtraError"),
}


def names_of(module):
    return WITHOUT_ALL.get(module) or import_module(module).__all__


def signature(function, *, bound=False):
    """Names, kinds and defaults; without types, which Python's versions write differently."""
    found = inspect.signature(function)
    parameters = [p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values()]
    return str(found.replace(parameters=parameters[bound:], return_annotation=inspect.Signature.empty))


def lines_of(module, written):
    """``written``: where each thing stands already, under its first name."""
    yield module
    for name in sorted(names_of(module)):
        thing = getattr(import_module(module), name)
        first = written.setdefault(id(thing), f"{module}.{name}")
        if first != f"{module}.{name}":
            yield f"    {name}: {first}"
        elif inspect.ismodule(thing):
            yield f"    {name}: module"
        elif inspect.isclass(thing):
            yield from class_lines(name, thing)
        elif callable(thing):
            yield f"    {name}{signature(thing)}"
        else:
            yield f"    {name}: {type(thing).__name__}"


def class_lines(name, kind):
    """A class with the methods and properties that it, or a base of ours, defines; an exception with its bases."""
    if issubclass(kind, Exception):
        yield f"    class {name}({', '.join(base.__name__ for base in kind.__bases__)})"
        return
    ours = [base for base in kind.__mro__ if base.__module__.startswith("attnconv.")]
    if any({"__init__", "__new__"} & vars(base).keys() for base in ours):
        yield f"    class {name}{signature(kind)}"
    else:  # the arguments are those of torch or Python, which may write them in another way tomorrow
        yield f"    class {name}({', '.join(base.__name__ for base in kind.__bases__)})"
    if dataclasses.is_dataclass(kind):
        yield from (f"        .{field.name}" for field in dataclasses.fields(kind))
    for attribute, found in own_attributes(kind):
        if isinstance(found, property):
            yield f"        .{attribute}"
        elif inspect.isfunction(found):
            yield f"        .{attribute}{signature(found, bound=True)}"
        elif isinstance(found, classmethod):
            yield f"        .{attribute}{signature(found.__func__, bound=True)}  (of the class)"


def own_attributes(kind):
    """What the class or a base of ours defines, by name."""
    ours = [base for base in kind.__mro__ if base.__module__.startswith("attnconv.")]
    for name in sorted({key for base in ours for key in vars(base) if not key.startswith("_")}):
        yield name, inspect.getattr_static(kind, name)


def public_api():
    written = {}
    text = "\n\n".join("\n".join(lines_of(module, written)) for module in MODULES)
    return f"The public interface: names, arguments and defaults. Made by tests/test_public_api.py.\n\n{text}\n"


def test_it_is_frozen():
    frozen, now = FROZEN.read_text(), public_api()
    changed = "\n".join(
        difflib.unified_diff(frozen.splitlines(), now.splitlines(), "public_api.txt", "now", lineterm="")
    )
    assert now == frozen, f"the public interface has changed:\n{changed}\n{__doc__}"


def test_a_changed_default_would_be_seen():
    def one(a, *, b=1): ...

    def other(a, *, b=2): ...

    assert signature(one) == "(a, *, b=1)"
    assert signature(one) != signature(other)


def test_every_package_that_attnconv_names_is_in_it():
    import attnconv

    packages = {f"attnconv.{name}" for name in attnconv.__all__ if inspect.ismodule(getattr(attnconv, name))}
    assert packages <= set(MODULES)
    assert len(packages) >= 6


# nn.Module says when these are called, and the class what it computes.
ELSEWHERE = {"forward", "extra_repr"}


def without_docstring(module):
    for name in names_of(module):
        thing = getattr(import_module(module), name)
        if callable(thing) and not inspect.getdoc(thing):
            yield name
        for attribute, found in own_attributes(thing) if inspect.isclass(thing) else ():
            function = getattr(found, "__func__", found)
            ours = isinstance(function, property) or (inspect.isfunction(function) and attribute not in ELSEWHERE)
            if ours and not function.__doc__:
                yield f"{name}.{attribute}"


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_a_docstring(module):
    assert import_module(module).__doc__
    assert list(without_docstring(module)) == []


if __name__ == "__main__":
    print(public_api(), end="")
