"""Convolutions of any network become attention-augmented ones of the same geometry; their tables fit other sizes."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import Tensor, nn

from attnconv import checks
from attnconv.layers import AugmentedConv1d, AugmentedConv2d, AugmentedConv3d
from attnconv.layers.attention import attention_widths
from attnconv.layers.augmented_conv import AugmentedConvNd, Size
from attnconv.surgery.network import (
    Change,
    Changes,
    Example,
    Place,
    nearest_names,
    note_step,
    only_call,
    params,
    places,
    size_text,
    trace,
    working_copy,
)

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
Model = TypeVar("Model", bound=nn.Module)
Where = str | re.Pattern[str] | Callable[[str, nn.Module], bool]
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
AUGMENTED = {1: AugmentedConv1d, 2: AugmentedConv2d, 3: AugmentedConv3d}


def augment(
    model: Model,
    *,
    image_size: Size | None = None,
    where: Where,
    key_ratio: float = 0.2,
    value_ratio: float = 0.1,
    num_heads: int = 8,
    min_head_dim: int = 20,
    example: Example | None = None,
    inplace: bool = False,
) -> tuple[Model, Changes]:
    """Replace convolutions by augmented ones: return the network, and the list of changes.

    Each new layer has the geometry, bias, dtype, device and mode of the convolution it replaces, and keeps its first
    F - d_v filters of F (of each group, if it has groups: so every filter sees the channels that it was trained on).
    The position tables cover the convolution's output map in one forward of the network, traced in evaluation mode.
    Code that reads a replaced convolution's own ``weight`` or ``bias`` finds them in its ``conv_out`` from then on.

    Args:
        model: any network of nn.Conv1d, nn.Conv2d or nn.Conv3d.
        image_size: side, or rows and columns, of the largest images in pixels. The trace runs on zeros
            (1, C, *image_size), with the channels C of the model's first convolution.
        where: a regular expression searched in the dotted module names, or a function (name, conv) -> bool that is
            asked about every convolution.
        key_ratio: key channels as a part of the outputs; this and the next three as in `AugmentedConv2d.from_ratios`.
        value_ratio: value channels as a part of them.
        num_heads: heads.
        min_head_dim: least key channels of a head.
        example: a tensor, or a tuple of positional arguments, for the trace to run on instead of zeros.
        inplace: change ``model`` itself and not a copy of it.
    Raises:
        InputError: ``where`` means no convolution, or one that cannot be replaced: augmented already, transposed, of
            shared or computed weights, run twice or not at all, or too narrow for these widths and its groups. The
            model is then as it was.
    """
    model = working_copy(model, inplace=inplace)
    choice = _chosen(places(model), where)
    outputs = trace(model, (place.module for place in choice), image_size=image_size, example=example)
    layers, changes = [], Changes()
    for place in choice:
        conv: Conv = place.module  # type: ignore[assignment]
        output = only_call(place.name, outputs[conv])
        if len(output.shape) != len(conv.kernel_size) + 2:
            raise checks.InputError(f"{place.name} runs without a batch axis, which an augmented convolution needs")
        key_channels, value_channels = attention_widths(
            conv.out_channels,
            key_ratio=key_ratio,
            value_ratio=value_ratio,
            num_heads=num_heads,
            min_head_dim=min_head_dim,
        )
        _check_split(place.name, conv, value_channels, value_ratio, num_heads)
        layer = _augmented(conv, output.map_size, key_channels, value_channels, num_heads)
        layers.append(layer)
        before, after = _text(conv), _augmented_text(layer)
        changes.append(Change(place.name, before, after, output.map_size, params(conv), params(layer)))
    for place, layer in zip(choice, layers, strict=True):
        place.put(layer)
    names = where if isinstance(where, str) else f"^(?:{'|'.join(re.escape(place.name) for place in choice)})$"
    widths = {"key_ratio": key_ratio, "value_ratio": value_ratio, "num_heads": num_heads, "min_head_dim": min_head_dim}
    note_step(model, "augment", {"where": names, **widths})
    return model, changes


def _chosen(found: list[Place], where: Where) -> list[Place]:
    """Return the convolutions among ``found`` that ``where`` means; raise if none, or if one cannot be replaced."""
    below = [place for place in found if place.slots]  # without the model itself
    convs = [place for place in below if isinstance(place.module, (*CONVS, AugmentedConvNd))]
    choice = _by_function(convs, where) if callable(where) else _by_pattern(below, convs, where)
    owners: Counter[Tensor] = Counter(p for place in found for p in _own_parameters(place.module).values())
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


def _own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    return dict(module.named_parameters(recurse=False, remove_duplicate=False))


def _why_not(place: Place, owners: Counter[Tensor]) -> str | None:
    """Return the reason not to replace it, if any, as the rest of a sentence that its name begins."""
    conv, kind = place.module, type(place.module).__name__
    if isinstance(conv, AugmentedConvNd):
        return f"is an {kind} already; leave it out of where"
    if isinstance(conv, TRANSPOSED):
        return f"is a {kind}; only Conv1d, Conv2d and Conv3d can be augmented"
    assert isinstance(conv, CONVS)
    if "weight" not in _own_parameters(conv):
        return "computes its weight (spectral norm, weight norm, pruning); take that off first"
    if len(place.slots) > 1 or owners[conv.weight] > 1:
        return "shares its weights with another place of the model; leave both out of where"
    base = CONVS[len(conv.kernel_size) - 1]
    if type(conv).forward is not base.forward or type(conv)._conv_forward is not base._conv_forward:
        return f"is a {kind}, which computes something else than {base.__name__}; leave it out of where"
    if conv._forward_hooks or conv._forward_pre_hooks or conv._backward_hooks or conv._backward_pre_hooks:
        return "has hooks, which would be lost; remove them first"
    return None


def _check_split(name: str, conv: Conv, value_channels: int, value_ratio: float, num_heads: int) -> None:
    """Raise unless attention can take that many of the convolution's outputs and leaves as many to each group."""
    channels, groups = conv.out_channels, conv.groups
    if value_channels > channels:
        raise checks.InputError(
            f"{name}: attention cannot take {value_channels} of {channels} output channels (value_ratio={value_ratio}, "
            f"and one channel for each of num_heads={num_heads}); lower value_ratio or num_heads"
        )
    step = math.lcm(groups, num_heads)
    if (channels - value_channels) % groups:
        fits = min(range(step, channels + 1, step), key=lambda n: abs(n - value_channels), default=None)
        raise checks.InputError(
            f"{name}: with groups={groups} and num_heads={num_heads}, attention can take a multiple of {step} of the "
            f"{channels} output channels, not {value_channels}; "
            + (f"value_ratio={fits}/{channels} fits" if fits else f"choose num_heads that divides {groups}")
            + ", or leave it out of where"
        )


def _augmented(
    conv: Conv, feat_size: tuple[int, ...], key_channels: int, value_channels: int, num_heads: int
) -> AugmentedConvNd:
    layer = AUGMENTED[len(conv.kernel_size)](
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,
        conv.groups,
        conv.bias is not None,
        conv.padding_mode,
        key_channels=key_channels,
        value_channels=value_channels,
        num_heads=num_heads,
        feat_size=feat_size,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    if layer.conv_out is not None:
        kept = layer.conv_out.out_channels // conv.groups  # of each group
        for name, old in conv.named_parameters(recurse=False):
            new = old.detach().unflatten(0, (conv.groups, -1))[:, :kept].flatten(0, 1)
            setattr(layer.conv_out, name, nn.Parameter(new.clone(), requires_grad=old.requires_grad))
    return layer.train(conv.training)


def _text(conv: Conv) -> str:
    text = f"{conv.in_channels}, {conv.out_channels}, {size_text(conv.kernel_size)}"
    if max(conv.stride) > 1:
        text += f", stride {size_text(conv.stride)}"
    if conv.groups > 1:
        text += f", groups {conv.groups}"
    return f"{type(conv).__name__}({text})"


def _augmented_text(layer: AugmentedConvNd) -> str:
    widths = f"d_k {layer.key_channels}, d_v {layer.value_channels}, {layer.num_heads} heads"
    return f"{type(layer).__name__}({widths})"


def resize_feat_size(model: nn.Module, image_size: Size | None = None, *, example: Example | None = None) -> Changes:
    """Fit the position tables of every augmented convolution to ``image_size``, in place; return the list of changes.

    Each layer's output map is taken from one forward of the network, traced in evaluation mode; of several calls of a
    layer the largest counts, and a layer that does not run keeps its tables. Resized tables are interpolated, and are
    new parameters: build the optimiser afterwards.

    Args:
        model: a network with augmented convolutions of position="relative".
        image_size: side, or rows and columns, of the largest images in pixels. The trace runs on zeros
            (1, C, *image_size), with the channels C of the model's first convolution.
        example: a tensor, or a tuple of positional arguments, for the trace to run on instead of zeros.
    Raises:
        InputError: there is no such layer, or the model does not run at that size.
    """
    layers = {
        place.module: place.name
        for place in places(model)
        if isinstance(place.module, AugmentedConvNd) and place.module.position == "relative"
    }
    if not layers:
        raise checks.InputError(f"{type(model).__name__} has no augmented convolution with position tables")
    with _sizes_only(layers):
        outputs = trace(model, layers, image_size=image_size, example=example)
    changes = Changes()
    for layer, name in layers.items():
        calls = [output.map_size for output in outputs[layer]]
        largest = tuple(max(sizes) for sizes in zip(*calls, strict=True))
        if calls and largest != layer.feat_size:
            before, params_before = layer.feat_size or (), params(layer)
            layer.resize_feat_size(largest)
            changes.append(
                Change(
                    name,
                    f"feat_size {size_text(before)}",
                    f"feat_size {size_text(largest)}",
                    largest,
                    params_before,
                    params(layer),
                )
            )
    return changes


@contextmanager
def _sizes_only(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Each layer answers zeros of its output's size: attention itself could need more memory than there is.

    Without tables, because those too small for the map would stop the trace.
    """

    def sizes_of(layer: AugmentedConvNd) -> Callable[[Tensor], Tensor]:
        return lambda x: x.new_zeros(len(x), layer.out_channels, *layer.output_size(x))

    for layer in layers:
        assert isinstance(layer, AugmentedConvNd)
        layer.position = None
        layer.forward = sizes_of(layer)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        for layer in layers:
            layer.position = "relative"  # type: ignore[assignment]
            del layer.forward
