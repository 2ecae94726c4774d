"""Surgery as plain values: what a configuration, a plan or a saved network says of the attention in somebody's network.

A step is a dict of one entry: {augment: {where: 'layer4.*conv2'}} or {add: {after: layer3, kind: simple}}, with the
arguments of the function in its own words. Names mean modules of the network as it came, whatever step comes before.
"""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from attnconv import checks
from attnconv.layers.augmented_conv import Size
from attnconv.layers.registry import find_attention, is_known
from attnconv.surgery.add_self_attention import add_self_attention
from attnconv.surgery.augment import augment
from attnconv.surgery.network import Changes

Model = TypeVar("Model", bound=nn.Module)
Step = dict[str, dict[str, Any]]

STEPS: dict[str, tuple[Callable[..., tuple[Any, Changes]], str]] = {
    "augment": (augment, "where"),
    "add": (add_self_attention, "after"),
}
NOT_SAID = ("model", "image_size", "example", "inplace")  # arguments that are no matter of a step


def checked_steps(steps: Any, *, what: str = "attention", layers: bool = False) -> list[Step]:
    """Return ``steps`` as plain values; modules are looked for when they are applied.

    Args:
        steps: to be checked.
        what: they are, for messages.
        layers: look for all layers that they name; else for options of those that were registered before.
    Raises:
        InputError: they are no list of steps, or an argument or a layer is unknown (the nearest is named) or missing.
    """
    if not isinstance(steps, (list, tuple)):
        raise checks.InputTypeError(f"{what} must be a list of steps such as {{add: {{after: layer3}}}}, got {steps!r}")
    found: list[Step] = []
    for step in steps:
        if not isinstance(step, dict) or len(step) != 1:
            raise checks.InputTypeError(
                f"a step of {what} must be one of augment and add with its arguments, got {step!r}"
            )
        [(name, arguments)] = step.items()
        function, needed = STEPS[checks.one_of(f"step of {what}", name, STEPS)]
        if not isinstance(arguments, dict):
            raise checks.InputTypeError(f"step {name!r} of {what} must hold names and values, got {arguments!r}")
        for key in arguments.keys() & set(NOT_SAID):
            raise checks.InputError(f"step {name!r} of {what} cannot say {key!r}: the run does")
        kind = arguments.get("kind", inspect.signature(function).parameters["kind"].default)
        if not isinstance(kind, str):
            raise checks.InputTypeError(f"step {name!r} of {what}: kind must be the name of a layer, got {kind!r}")
        if layers or is_known(kind):
            own = find_attention(kind)
            for key in arguments:
                if not own.others:
                    checks.one_of(f"argument of step {name!r}:", key, (needed, "kind", *own.options))
        names = arguments.get(needed)
        if not isinstance(names, str) and not (needed == "after" and isinstance(names, list)):
            raise checks.InputTypeError(f"step {name!r} of {what} needs {needed!r}, names of modules, got {names!r}")
        found.append({name: checks.plain(f"step {name!r} of {what}", arguments)})
    return found


def apply_steps(model: Model, steps: list[Step], *, image_size: Size, inplace: bool = False) -> tuple[Model, Changes]:
    """Put attention into a network as ``steps``, of `checked_steps`, say; return the network and the changes.

    Args:
        model: any network.
        image_size: side, or rows and columns, of the largest images in pixels.
        inplace: change ``model`` itself and not a copy of it.
    Raises:
        InputError: as `augment` and `add_self_attention`, the number of the step named.
    """
    changes = Changes()
    for number, step in enumerate(checked_steps(steps), 1):
        [(name, arguments)] = step.items()
        try:
            model, made = STEPS[name][0](model, image_size=image_size, inplace=inplace or bool(changes), **arguments)
        except checks.InputError as error:
            raise type(error)(f"attention, step {number} ({name}): {error}") from None
        changes += made
    return model, changes
