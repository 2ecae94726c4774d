"""A network, as far as the names and shapes in its state dict tell."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attnconv.weights import Shapes


@dataclass(frozen=True)
class Seen:
    """A network of ours, as far as the state dict of another program tells.

    Args:
        family: our networks of this kind, as a message names them.
        pattern: a regular expression of their names.
        name: of the one that it looks like; None if the counts of its blocks are of none.
        num_classes, in_channels: of its first and last weights.
        image_size: side of the images that its position tables were made for, in pixels; None without tables.
        options: of the network, read off the weights or as that program had them.
        names: the program's names of the tensors, to ours.
    """

    family: str
    pattern: str
    name: str | None
    num_classes: int
    in_channels: int
    image_size: int | None
    names: Mapping[str, str] = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)


def axis(shapes: Shapes, name: str, axes: int, at: int) -> int | None:
    """Axis ``at`` of the tensor ``name``, if it is there and has as many ``axes``."""
    shape = shapes.get(name, ())
    return shape[at] if len(shape) == axes and min(shape) > 0 else None
