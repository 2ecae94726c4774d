"""The modules of a network under their dotted names, and the slots of their parents in which they stand."""

import copy
import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from torch import nn

from attnconv import checks
from attnconv.layers import SelfAttention, SimpleSelfAttention
from attnconv.layers.augmented_conv import AugmentedConvNd
from attnconv.surgery.attended import Attended

Model = TypeVar("Model", bound=nn.Module)
OURS = (AugmentedConvNd, SelfAttention, SimpleSelfAttention)


@dataclass(eq=False)
class Place:
    """One module, by the first of its names; `Attended` adds no level to names and is no place of its own."""

    name: str
    module: nn.Module
    slots: list[tuple[nn.Module, str]] = field(default_factory=list)  # (parent, key), several if it is shared

    @property
    def attended(self) -> bool:
        return any(isinstance(parent, Attended) for parent, _ in self.slots)

    def put(self, module: nn.Module) -> None:
        """Let ``module`` stand here."""
        for parent, key in self.slots:
            parent.add_module(key, module)


def places(model: nn.Module) -> list[Place]:
    """Every module of ``model`` in the order of its registration, itself first, our layers without their insides."""
    found = {model: Place("", model)}
    for name, parent, key, child in _walk(model, "", {model}):
        found.setdefault(child, Place(name, child)).slots.append((parent, key))
    return list(found.values())


def _walk(parent: nn.Module, prefix: str, seen: set[nn.Module]) -> Iterator[tuple[str, nn.Module, str, nn.Module]]:
    for key, child in parent._modules.items():
        if child is None:
            continue
        inside = isinstance(parent, Attended)
        if inside and key == "attention":
            continue
        name = prefix if inside else f"{prefix}.{key}".removeprefix(".")
        if not isinstance(child, Attended):
            yield name, parent, key, child
        if child not in seen and not isinstance(child, OURS):
            seen.add(child)
            yield from _walk(child, name, seen)


def nearest_names(kind: str, name: str, known: Iterable[str]) -> str:
    """A clause with the three names of ``kind`` most like ``name``."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.0)
    return f"nearest {kind}: {', '.join(map(repr, close))}" if close else f"the model has no {kind}"


def working_copy(model: Model, *, inplace: bool) -> Model:
    """``model`` itself, or a copy that shares nothing with it."""
    if not isinstance(model, nn.Module):
        raise checks.InputTypeError(f"model must be an nn.Module, got {type(model).__name__}")
    if inplace:
        return model
    try:
        return copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        reason = checks.first_line(error)
        raise checks.InputError(f"the model cannot be copied, pass inplace=True: {reason}") from error
