"""Attention after any module of a network."""

import math
from typing import Any

import torch
from torch import Tensor

from attnconv import checks
from attnconv.layers import draws
from attnconv.layers.attention import Attention
from attnconv.layers.augmented_conv import Size
from attnconv.layers.registry import Kind, find_attention
from attnconv.surgery import network
from attnconv.surgery.network import Attended, Change, Changes, Example, Model, Output, Place

TRIED, TRIED_SIDE = 4096, 16  # largest map on which a new layer is tried, in positions; else the side of a part


def add_self_attention(
    model: Model,
    *,
    after: str | list[str] | tuple[str, ...],
    kind: Kind = "simple",
    image_size: Size | None = 224,
    example: Example | None = None,
    inplace: bool = False,
    **options: Any,
) -> tuple[Model, Changes]:
    """Add attention after modules of a network; return the network and the list of changes.

    The gammas of "simple" and "sagan" start at 0, so the output of the network stays the same at first; the list of
    changes names layers that are not the identity at first, as most of timm's. Each module is wrapped in `Attended`,
    which describes the names in the state dict. One forward pass in evaluation mode finds the channels of each module.

    Args:
        model: any network.
        after: dotted name of a module whose output is a map (B, C, *map), or several names.
        kind: "simple", `SimpleSelfAttention`; "sagan", `SelfAttention`; timm:NAME, a module of
            `timm.layers.create_attn`; another name of `attnconv.layers.list_attention`; or a class or function of
            channels that makes an `attnconv.Attention`.
        image_size: side, or rows and columns, of the images in pixels. The trace runs on zeros (1, C, *image_size),
            with the channels C of the model's first convolution.
        example: a tensor, or a tuple of positional arguments, to trace with instead of zeros.
        inplace: change ``model`` itself instead of a copy.
        options: options of the layer's constructor.
    Raises:
        InputError: an unknown name or option (the nearest is named); a layer that is not an `attnconv.Attention` or
            changes the shape; a module that has attention already, runs twice or never, or whose output is not a map.
            The model is unchanged.
    """
    found = find_attention(kind)
    if found.replaces_conv:
        raise checks.InputError(f"attention layer {found.name!r} replaces a convolution; use augment")
    found.check_options(options)
    model = network.working_copy(model, inplace=inplace)
    choice = _named(network.places(model), after)
    outputs = network.trace(model, (place.module for place in choice), image_size=image_size, example=example)
    layers, changes, state = [], Changes(), draws.generator_state()
    for place in choice:
        output = _only_map(place.name, outputs[place.module])
        with draws.own_generator(state, f"{place.name}.attention"):
            layer = found.make(output.shape[1], **options)
        layer.to(output.device, output.dtype).train(place.module.training)
        layers.append(layer)
        before = type(place.module).__name__
        text = f"{before} + {layer.short_repr()}{'' if _is_identity(layer, output) else ', not the identity at first'}"
        sizes = network.params(place.module), network.params(place.module, layer)
        changes.append(Change(place.name, before, text, output.map_size, *sizes))
    draws.advance(state)
    for place, layer in zip(choice, layers, strict=True):
        place.put(Attended(place.module, layer))
    network.note_paths(model)
    said = {name: value for name, value in options.items() if value != found.options.get(name)}
    network.note_step(
        model, "add", {"after": after if isinstance(after, str) else list(after), "kind": found.name, **said}
    )
    return model, changes


def _is_identity(layer: Attention, output: Output) -> bool:
    """Return False if a new layer changes a map like ``output``; True if it cannot be tried.

    Raises:
        InputError: the layer does not take such a map, or changes its shape.
    """
    size = output.map_size
    whole = math.prod(size) <= TRIED
    if not whole:
        size = tuple(min(n, TRIED_SIDE) for n in size)
    x = torch.arange(output.shape[1] * math.prod(size), device=output.device, dtype=torch.float32).sin()
    x = x.to(output.dtype).reshape(1, output.shape[1], *size)
    mode = layer.training
    try:
        with torch.no_grad():
            y: Any = layer.eval()(x.clone())
    except Exception as error:  # of the user's code
        if not whole:
            return True
        reason = checks.first_line(error)
        raise checks.InputError(f"{layer.short_repr()} does not take a map {tuple(x.shape)}: {reason}") from error
    finally:
        layer.train(mode)
    if not isinstance(y, Tensor) or y.shape != x.shape:
        got = tuple(y.shape) if isinstance(y, Tensor) else f"a {type(y).__name__}"
        raise checks.InputError(f"{layer.short_repr()} must keep the shape {tuple(x.shape)} of its map, it gives {got}")
    return x.is_meta or torch.equal(x, y)


def _named(found: list[Place], after: str | list[str] | tuple[str, ...]) -> list[Place]:
    names = [after] if isinstance(after, str) else list(after)
    by_name = {place.name: place for place in found if place.slots}
    if not names:
        raise checks.InputError("after names no module")
    for name in names:
        if name not in by_name:
            raise checks.InputError(
                f"after={name!r} is not a module of the model; {network.nearest_names('modules', str(name), by_name)}"
            )
        if by_name[name].attended:
            raise checks.InputError(f"{name} has attention after it already")
        if names.count(name) > 1:
            raise checks.InputError(f"after names {name} twice")
    return [by_name[name] for name in names]


def _only_map(name: str, outputs: list[Output]) -> Output:
    output = network.only_call(name, outputs)
    if len(output.shape) < 3 or output.dtype is None or not output.dtype.is_floating_point:
        raise checks.InputError(f"the output of {name} is {output.what}, not a map (B, C, *map)")
    return output
