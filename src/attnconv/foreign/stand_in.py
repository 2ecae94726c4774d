"""Inert things in the places of classes, functions and objects that a pickle names and that are not made."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Name:
    """The name of a class or function in a file; it is not looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class StandIn:
    """An object as a file describes it: what it is made by, from what, and what it then got.

    Args:
        made_by: the class or function, usually a Name.
        args: its arguments.
        state: what its ``__setstate__`` or ``__dict__`` would be given.
        items: its entries, if it is a kind of dict.
        elements: its elements, if it is a kind of list.
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
