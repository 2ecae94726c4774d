"""Every network under its name.

A builder is called with num_classes, in_channels, image_size (rows, columns) and its own keyword-only options.
"""

import fnmatch
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from torch import nn

from attnconv import checks

Builder = Callable[..., nn.Module]
AnyBuilder = TypeVar("AnyBuilder", bound=Builder)

_BUILDERS: dict[str, Builder] = {}
_COMMON = ("num_classes", "in_channels", "image_size")


def register(build: AnyBuilder) -> AnyBuilder:
    """Decorator: ``build`` is the network of its own name."""
    assert build.__name__ not in _BUILDERS, build.__name__
    _BUILDERS[build.__name__] = build
    return build


def list_models(pattern: str = "*") -> list[str]:
    """Names that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(_BUILDERS, pattern))


def create_model(
    name: str, *, num_classes: int, in_channels: int = 3, image_size: int | tuple[int, int], **options: Any
) -> nn.Module:
    """A new network: (B, in_channels, rows, columns) -> logits (B, num_classes).

    Args:
        name: one of `list_models`.
        num_classes: outputs.
        in_channels: image channels.
        image_size: side, or rows and columns, of the largest images in pixels; position tables are sized by it.
        options: the network's own, as its builder documents them.
    Raises:
        ValueError: an unknown name or option (the nearest is named), or values that do not fit each other.
    """
    build = _BUILDERS[checks.one_of("model", name, _BUILDERS)]
    check_options(name, options)
    return build(
        num_classes=checks.integer("num_classes", num_classes, at_least=1),
        in_channels=checks.integer("in_channels", in_channels, at_least=1),
        image_size=checks.per_axis("image_size", image_size, 2, at_least=1),
        **options,
    )


def check_options(name: str, options: Iterable[str]) -> None:
    """Raise unless all are names of the network's own options."""
    for option in options:
        checks.one_of(f"option of {name}:", option, model_options(name))


def model_options(name: str) -> dict[str, Any]:
    """The network's own options and their defaults."""
    parameters = inspect.signature(_BUILDERS[checks.one_of("model", name, _BUILDERS)]).parameters
    return {key: p.default for key, p in parameters.items() if key not in _COMMON}
