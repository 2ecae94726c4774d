"""Replace convolutions of any network by augmented ones; resize position tables for other image sizes."""

import copy
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from attnconv import checks
from attnconv.layers import draws
from attnconv.layers.attention import Attention, has_own_hooks
from attnconv.layers.augmented_conv import Conv, Size
from attnconv.layers.registry import Kind, find_attention, replaces_conv
from attnconv.surgery import network
from attnconv.surgery.network import CONVS, Change, Changes, Example, Model, Place, params, size_text

Where = str | re.Pattern[str] | Callable[[str, nn.Module], bool]
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def augment(
    model: Model,
    *,
    image_size: Size | None = None,
    where: Where,
    kind: Kind = "augmented",
    example: Example | None = None,
    inplace: bool = False,
    **options: Any,
) -> tuple[Model, Changes]:
    """Replace convolutions by augmented ones; return the network and the list of changes.

    Each augmented convolution has the geometry, bias, dtype, device and mode of the convolution that it replaces, and
    keeps its first F - d_v of F filters (of each group, so that every filter sees the channels it was trained on). One
    forward pass in evaluation mode finds the output map that the position tables cover. The ``weight`` and ``bias`` of
    a replaced convolution move to ``conv_out``.

    Args:
        model: any network of nn.Conv1d, nn.Conv2d or nn.Conv3d.
        image_size: side, or rows and columns, of the largest images in pixels. The trace runs on zeros
            (1, C, *image_size), with the channels C of the model's first convolution.
        where: a regular expression searched in the dotted module names, or a function (name, conv) -> bool.
        kind: "augmented", or the name or the class of another attention layer that replaces a convolution.
        example: a tensor, or a tuple of positional arguments, to trace with instead of zeros.
        inplace: change ``model`` itself instead of a copy.
        options: options of the layer; "augmented" has key_ratio (0.2), value_ratio (0.1), num_heads (8) and
            min_head_dim (20), as `AugmentedConv2d.from_ratios`.
    Raises:
        InputError: ``where`` selects no convolution, or one that cannot be replaced: augmented already, transposed,
            with shared or computed weights, run twice or never, or too narrow for these widths and its groups. The
            model is unchanged.
    """
    found = find_attention(kind)
    if not found.replaces_conv:
        raise checks.InputError(
            f"attention layer {found.name!r} does not replace a convolution; use add_self_attention"
        )
    found.check_options(options)
    model = network.working_copy(model, inplace=inplace)
    choice = _chosen(network.places(model), where)
    outputs = network.trace(model, (place.module for place in choice), image_size=image_size, example=example)
    layers, changes, state = [], Changes(), draws.generator_state()
    for place in choice:
        conv: Conv = place.module  # type: ignore[assignment]
        output = network.only_call(place.name, outputs[conv])
        if len(output.shape) != len(conv.kernel_size) + 2:
            raise checks.InputError(f"{place.name} runs without a batch axis, which an augmented convolution needs")
        try:
            with draws.own_generator(state, place.name):
                layer = found.make(conv, output.map_size, **options)
        except checks.InputError as error:
            width = "channels" in str(error)  # about this convolution, not about an option
            hint = ", or leave it out of where" if width else ""
            raise type(error)(f"{place.name}: {error}{hint}") from error
        layers.append(layer)
        change = Change(place.name, _text(conv), layer.short_repr(), output.map_size, params(conv), params(layer))
        changes.append(change)
    draws.advance(state)
    for place, layer in zip(choice, layers, strict=True):
        place.put(layer)
    network.note_paths(model, layers, image_size if example is None else getattr(example, "shape", ())[2:])
    names = where if isinstance(where, str) else f"^(?:{'|'.join(re.escape(place.name) for place in choice)})$"
    said = {} if found.name == "augmented" else {"kind": found.name}
    network.note_step(model, "augment", {"where": names, **said, **found.options, **options})
    return model, changes


def _chosen(found: list[Place], where: Where) -> list[Place]:
    """Return the convolutions that ``where`` selects; raise if there is none or one cannot be replaced."""
    below = [place for place in found if place.slots]  # without the model itself
    convs = [place for place in below if isinstance(place.module, CONVS) or replaces_conv(place.module)]
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
    rule = f"where must be a regular expression or a function of (name, conv), got {where!r}"
    with checks.explained(rule, re.error, TypeError):
        pattern = re.compile(where)
        pattern.search("")  # raises for a pattern of bytes
    matched = [place for place in below if pattern.search(place.name)]
    choice = [place for place in matched if place in convs or isinstance(place.module, TRANSPOSED)]
    if choice:
        return choice
    near = network.nearest_names("convolutions", pattern.pattern, (place.name for place in convs))
    if not matched:
        raise checks.InputError(f"where={pattern.pattern!r} matches no module; {near}")
    first = matched[0]
    raise checks.InputError(
        f"where={pattern.pattern!r} matches no convolution, but {first.name!r}, a {type(first.module).__name__}; {near}"
    )


def _own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    return dict(module.named_parameters(recurse=False, remove_duplicate=False))


def _why_not(place: Place, owners: Counter[Tensor]) -> str | None:
    """Return why the convolution cannot be replaced, as the rest of a sentence after its name; None if it can."""
    conv, kind = place.module, type(place.module).__name__
    if replaces_conv(conv):
        return f"is an {kind} already; leave it out of where"
    if isinstance(conv, TRANSPOSED):
        return f"is a {kind}; only Conv1d, Conv2d and Conv3d can be augmented"
    assert isinstance(conv, CONVS)
    if "weight" not in _own_parameters(conv):
        return "computes its weight (spectral norm, weight norm, pruning); take that off first"
    if owners[conv.weight] > 1:
        return "shares its weights with another convolution of the model; leave both out of where"
    base = CONVS[len(conv.kernel_size) - 1]
    if type(conv).forward is not base.forward or type(conv)._conv_forward is not base._conv_forward:
        return f"is a {kind}, which computes something else than {base.__name__}; leave it out of where"
    if has_own_hooks(conv):
        return "has hooks, which would be lost; remove them first"
    return None


def _text(conv: Conv) -> str:
    text = f"{conv.in_channels}, {conv.out_channels}, {size_text(conv.kernel_size)}"
    if max(conv.stride) > 1:
        text += f", stride {size_text(conv.stride)}"
    if conv.groups > 1:
        text += f", groups {conv.groups}"
    return f"{type(conv).__name__}({text})"


def resize_feat_size(model: nn.Module, image_size: Size | None = None, *, example: Example | None = None) -> Changes:
    """Resize the position tables of all augmented convolutions for ``image_size``, in place; return the changes.

    One forward pass in evaluation mode finds the output map of each layer: the largest of several calls; a layer that
    does not run keeps its tables. Resized tables are interpolated new parameters, so build the optimiser afterwards.

    Args:
        model: a network with augmented convolutions of position="relative".
        image_size: side, or rows and columns, of the largest images in pixels. The trace runs on zeros
            (1, C, *image_size), with the channels C of the model's first convolution.
        example: a tensor, or a tuple of positional arguments, to trace with instead of zeros.
    Raises:
        InputError: there is no such layer, or the model does not run at that size.
    """
    layers = {
        place.module: place.name
        for place in network.places(model)
        if isinstance(place.module, Attention) and place.module.largest_map is not None
    }
    if not layers:
        raise checks.InputError(f"{type(model).__name__} has no augmented convolution with position tables")
    with _sizes_only(layers):
        outputs = network.trace(model, layers, image_size=image_size, example=example)
    changes = Changes()
    for layer, name in layers.items():
        calls = [output.map_size for output in outputs[layer]]
        largest = tuple(max(sizes) for sizes in zip(*calls, strict=True))
        if calls and largest != layer.largest_map:
            before, params_before = f"feat_size {size_text(layer.largest_map or ())}", params(layer)
            layer.resize_feat_size(largest)
            after = f"feat_size {size_text(largest)}"
            changes.append(Change(name, before, after, largest, params_before, params(layer)))
    return changes


@contextmanager
def _sizes_only(layers: Iterable[Attention]) -> Iterator[None]:
    """Make each layer return zeros of its output's size, since attention could exceed the memory.

    Position tables are ignored, since too small ones would stop the trace.
    """

    def zeros_of(layer: Attention) -> Callable[[Tensor], Tensor]:
        shadow = copy.deepcopy(layer).to("meta")
        return lambda x, mask=None: x.new_zeros(shadow.forward(x.to("meta")).shape)

    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(layer.tables_ignored())
            layer.forward = zeros_of(layer)
            stack.callback(delattr, layer, "forward")
        yield
