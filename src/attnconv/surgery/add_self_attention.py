"""Self-attention behind any module of a network, starting as the identity."""

from typing import Literal, TypeVar

from torch import nn

from attnconv import checks
from attnconv.layers import SelfAttention, SimpleSelfAttention
from attnconv.layers.augmented_conv import Size
from attnconv.surgery.network import (
    Attended,
    Change,
    Changes,
    Example,
    Output,
    Place,
    nearest_names,
    note_step,
    only_call,
    params,
    places,
    trace,
    working_copy,
)

Model = TypeVar("Model", bound=nn.Module)
KEY_RATIO = 1 / 8


def add_self_attention(
    model: Model,
    *,
    after: str | list[str] | tuple[str, ...],
    kind: Literal["simple", "sagan"] = "simple",
    image_size: Size | None = 224,
    symmetric: bool = False,
    normalize: bool = False,
    key_ratio: float = KEY_RATIO,
    spectral_norm: bool = True,
    example: Example | None = None,
    inplace: bool = False,
) -> tuple[Model, Changes]:
    """Send the output of modules through self-attention; return the network and the list of changes.

    gamma starts at 0, so the network computes at first what it did. Each module is wrapped in `Attended`, which tells
    what becomes of the names in the state dict. Channels are those of the module's output in one forward of the
    network, traced in evaluation mode.

    Args:
        model: any network.
        after: dotted name of a module whose output is a map (B, C, *map), or several of them.
        kind: "simple", `SimpleSelfAttention`, or "sagan", `SelfAttention`.
        image_size: side, or rows and columns, of the images in pixels. The trace runs on zeros (1, C, *image_size),
            with the channels C of the model's first convolution.
        symmetric: option of "simple".
        normalize: option of "simple".
        key_ratio: option of "sagan".
        spectral_norm: divide each weight of the attention by its largest singular value.
        example: a tensor, or a tuple of positional arguments, for the trace to run on instead of zeros.
        inplace: change ``model`` itself and not a copy of it.
    Raises:
        InputError: an unknown name, or a module that is attended already, shared, run twice or not at all, or whose
            output is no map. The model is then as it was.
    """
    checks.one_of("kind", kind, ("simple", "sagan"))
    if kind == "sagan" and (symmetric or normalize):
        raise checks.InputError("symmetric and normalize are options of kind='simple', got kind='sagan'")
    if kind == "simple" and key_ratio != KEY_RATIO:
        raise checks.InputError(f"key_ratio is an option of kind='sagan', got kind='simple' and key_ratio={key_ratio}")
    model = working_copy(model, inplace=inplace)
    choice = _named(places(model), after)
    outputs = trace(model, (place.module for place in choice), image_size=image_size, example=example)
    layers, changes = [], Changes()
    for place in choice:
        output = _only_map(place.name, outputs[place.module])
        channels = output.shape[1]
        if kind == "simple":
            layer = SimpleSelfAttention(channels, symmetric=symmetric, normalize=normalize, spectral_norm=spectral_norm)
        else:
            layer = SelfAttention(channels, key_ratio=key_ratio, spectral_norm=spectral_norm)
        layer.to(output.device, output.dtype).train(place.module.training)
        layers.append(layer)
        before = type(place.module).__name__
        after_text = f"{before} + {type(layer).__name__}({channels})"
        sizes = params(place.module), params(place.module, layer)
        changes.append(Change(place.name, before, after_text, output.map_size, *sizes))
    for place, layer in zip(choice, layers, strict=True):
        place.put(Attended(place.module, layer))
    own = {"symmetric": symmetric, "normalize": normalize} if kind == "simple" else {"key_ratio": key_ratio}
    usual = {"symmetric": False, "normalize": False, "key_ratio": KEY_RATIO, "spectral_norm": True}
    said = {name: value for name, value in {**own, "spectral_norm": spectral_norm}.items() if value != usual[name]}
    note_step(model, "add", {"after": after if isinstance(after, str) else list(after), "kind": kind, **said})
    return model, changes


def _named(found: list[Place], after: str | list[str] | tuple[str, ...]) -> list[Place]:
    names = [after] if isinstance(after, str) else list(after)
    by_name = {place.name: place for place in found if place.slots}
    if not names:
        raise checks.InputError("after names no module")
    for name in names:
        if name not in by_name:
            raise checks.InputError(
                f"after={name!r} is no module of the model; {nearest_names('modules', str(name), by_name)}"
            )
        if by_name[name].attended:
            raise checks.InputError(f"{name} has self-attention behind it already")
        if len(by_name[name].slots) > 1:
            raise checks.InputError(f"{name} stands at several places of the model (shared weights), not at one")
        if names.count(name) > 1:
            raise checks.InputError(f"after names {name} twice")
    return [by_name[name] for name in names]


def _only_map(name: str, outputs: list[Output]) -> Output:
    output = only_call(name, outputs)
    if len(output.shape) < 3 or output.dtype is None or not output.dtype.is_floating_point:
        raise checks.InputError(f"the output of {name} is {output.what}, not a map (B, C, *map)")
    return output
