"""The position tables of a whole network fitted to images of another size."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from attnconv import checks
from attnconv.layers.attention import Attention
from attnconv.layers.augmented_conv import Size
from attnconv.surgery.network import Change, Changes, Example, params, places, size_text, trace


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
        if isinstance(place.module, Attention) and place.module.largest_map is not None
    }
    if not layers:
        raise checks.InputError(f"{type(model).__name__} has no augmented convolution with position tables")
    with _sizes_only(layers):
        outputs = trace(model, layers, image_size=image_size, example=example)
    changes = Changes()
    for layer, name in layers.items():
        calls = [output.map_size for output in outputs[layer]]
        largest = tuple(max(sizes) for sizes in zip(*calls, strict=True))
        if calls and largest != layer.largest_map:
            before, params_before = _text(layer), params(layer)
            layer.resize_feat_size(largest)
            changes.append(Change(name, before, _text(layer), largest, params_before, params(layer)))
    return changes


@contextmanager
def _sizes_only(layers: Iterable[Attention]) -> Iterator[None]:
    """Each layer answers zeros of its output's size: attention itself could need more memory than there is.

    Without tables, because those too small for the map would stop the trace.
    """

    def zeros_of(layer: Attention) -> Callable[[Tensor], Tensor]:
        shadow = copy.deepcopy(layer).to("meta")
        return lambda x: x.new_zeros(shadow.forward(x.to("meta")).shape)

    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(layer.tables_ignored())
            layer.forward = zeros_of(layer)
            stack.callback(delattr, layer, "forward")
        yield


def _text(layer: Attention) -> str:
    return f"feat_size {size_text(layer.largest_map or ())}"
