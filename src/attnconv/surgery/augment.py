"""Convolutions of any network become attention-augmented ones of the same geometry."""

import math
from typing import TypeVar

from torch import nn

from attnconv import checks
from attnconv.layers import AugmentedConv1d, AugmentedConv2d, AugmentedConv3d
from attnconv.layers.augmented_conv import AugmentedConvNd, Size
from attnconv.layers.widths import attention_widths
from attnconv.surgery.changes import Change, Changes, params, size_text
from attnconv.surgery.choice import Where, chosen
from attnconv.surgery.places import places, working_copy
from attnconv.surgery.trace import Example, only_call, trace

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
Model = TypeVar("Model", bound=nn.Module)
AUGMENTED = {1: AugmentedConv1d, 2: AugmentedConv2d, 3: AugmentedConv3d}


def augment(
    model: Model,
    *,
    image_size: Size | None = None,
    where: Where,
    key_ratio: float,
    value_ratio: float,
    num_heads: int = 8,
    min_head_dim: int = 20,
    example: Example | None = None,
    inplace: bool = False,
) -> tuple[Model, Changes]:
    """Replace convolutions by augmented ones: the network, and the list of changes.

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
    choice = chosen(places(model), where)
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
    return model, changes


def _check_split(name: str, conv: Conv, value_channels: int, value_ratio: float, num_heads: int) -> None:
    """Attention can take that many of the convolution's outputs, and leaves as many to each group."""
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
