"""Surgery as plain values, for configurations, plans and saved networks.

A step is a dict with one entry: {augment: {where: 'layer4.*conv2'}} or {add: {after: layer3, kind: simple}}, with the
arguments of the function. Names refer to the modules of the original network, whatever steps come before.
"""

import inspect
from collections.abc import Callable
from typing import Any

from attnconv import checks
from attnconv.layers import draws
from attnconv.layers.augmented_conv import Size
from attnconv.layers.registry import find_attention, is_known
from attnconv.surgery.add_self_attention import add_self_attention
from attnconv.surgery.augment import augment
from attnconv.surgery.network import Changes, Model

Step = dict[str, dict[str, Any]]

STEPS: dict[str, tuple[Callable[..., tuple[Any, Changes]], str]] = {
    "augment": (augment, "where"),
    "add": (add_self_attention, "after"),
}
NOT_SAID = ("model", "image_size", "example", "inplace")  # arguments that the run sets


def checked_steps(steps: Any, *, what: str = "attention", layers: bool = False) -> list[Step]:
    """Return checked ``steps`` as plain values; `apply_steps` looks for the modules.

    Args:
        steps: list of steps.
        what: their name in messages.
        layers: look up all layers; if False, check the options of registered layers only.
    Raises:
        InputError: not a list of steps, or an argument or a layer that is unknown (the nearest is named) or missing.
    """
    if not isinstance(steps, (list, tuple)):
        raise checks.InputTypeError(f"{what} must be a list of steps such as {{add: {{after: layer3}}}}, got {steps!r}")
    found: list[Step] = []
    for step in steps:
        if not isinstance(step, dict) or len(step) != 1:
            raise checks.InputTypeError(f"a step of {what} must be augment or add with its arguments, got {step!r}")
        [(name, arguments)] = step.items()
        function, needed = STEPS[checks.one_of(f"step of {what}", name, STEPS)]
        if not isinstance(arguments, dict):
            raise checks.InputTypeError(f"step {name!r} of {what} must hold names and values, got {arguments!r}")
        for key in arguments.keys() & set(NOT_SAID):
            raise checks.InputError(f"step {name!r} of {what} cannot set {key!r}, which the run sets")
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
    """Apply ``steps`` of `checked_steps` to a network; return the network and the changes.

    Args:
        model: any network.
        image_size: side, or rows and columns, of the largest images in pixels.
        inplace: change ``model`` itself instead of a copy.
    Raises:
        InputError: as `augment` and `add_self_attention`, with the number of the step.
    """
    changes, state = Changes(), draws.generator_state()
    for number, step in enumerate(checked_steps(steps), 1):
        [(name, arguments)] = step.items()
        draws.set_state(state)  # a layer draws by its name, whatever steps come before
        with checks.prefixed(f"attention, step {number} ({name})"):
            model, made = STEPS[name][0](model, image_size=image_size, inplace=inplace or bool(changes), **arguments)
        changes += made
    return model, changes
