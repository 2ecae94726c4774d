"""Which convolutions ``where`` means, and why one cannot be replaced."""

import re
from collections import Counter
from collections.abc import Callable

from torch import Tensor, nn

from attnconv import checks
from attnconv.layers.augmented_conv import AugmentedConvNd
from attnconv.surgery.places import Place, nearest_names

Where = str | re.Pattern[str] | Callable[[str, nn.Module], bool]
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def chosen(found: list[Place], where: Where) -> list[Place]:
    """The convolutions among ``found`` that ``where`` means, each of which can be replaced.

    Raises:
        InputError: there is none, or one of them cannot be replaced.
    """
    below = [place for place in found if place.slots]  # without the model itself
    convs = [place for place in below if isinstance(place.module, (*CONVS, AugmentedConvNd))]
    choice = _by_function(convs, where) if callable(where) else _by_pattern(below, convs, where)
    owners: Counter[Tensor] = Counter(p for place in found for p in place.module._parameters.values() if p is not None)
    for place in choice:
        if reason := _why_not(place, owners):
            raise checks.InputError(f"{place.name} {reason}")
    return choice


def _by_function(convs: list[Place], where: Callable[[str, nn.Module], bool]) -> list[Place]:
    if choice := [place for place in convs if where(place.name, place.module)]:
        return choice
    raise checks.InputError(f"where is true for none of the model's {len(convs)} convolutions")


def _by_pattern(below: list[Place], convs: list[Place], where: str | re.Pattern[str]) -> list[Place]:
    try:
        pattern = re.compile(where)
        pattern.search("")  # a pattern of bytes compiles, too
    except (re.error, TypeError) as error:
        raise checks.InputError(
            f"where must be a regular expression or a function of (name, conv), got {where!r}: {error}"
        ) from None
    matched = [place for place in below if pattern.search(place.name)]
    choice = [place for place in matched if isinstance(place.module, (*CONVS, *TRANSPOSED, AugmentedConvNd))]
    if choice:
        return choice
    near = nearest_names("convolutions", pattern.pattern, (place.name for place in convs))
    if not matched:
        raise checks.InputError(f"where={pattern.pattern!r} matches no module; {near}")
    first = matched[0]
    raise checks.InputError(
        f"where={pattern.pattern!r} matches no convolution, but {first.name!r}, a {type(first.module).__name__}; {near}"
    )


def _why_not(place: Place, owners: Counter[Tensor]) -> str | None:
    """What stands against replacing it, if anything does, as the rest of a sentence that its name begins."""
    conv, kind = place.module, type(place.module).__name__
    if isinstance(conv, AugmentedConvNd):
        return f"is an {kind} already; leave it out of where"
    if isinstance(conv, TRANSPOSED):
        return f"is a {kind}; only Conv1d, Conv2d and Conv3d can be augmented"
    assert isinstance(conv, CONVS)
    if "weight" not in conv._parameters:
        return "computes its weight (spectral norm, weight norm, pruning); take that off first"
    if len(place.slots) > 1 or owners[conv.weight] > 1:
        return "shares its weights with another place of the model; leave both out of where"
    base = CONVS[len(conv.kernel_size) - 1]
    if type(conv).forward is not base.forward or type(conv)._conv_forward is not base._conv_forward:
        return f"is a {kind}, which computes something else than {base.__name__}; leave it out of where"
    if conv._forward_hooks or conv._forward_pre_hooks or conv._backward_hooks or conv._backward_pre_hooks:
        return "has hooks, which would be lost; remove them first"
    return None
