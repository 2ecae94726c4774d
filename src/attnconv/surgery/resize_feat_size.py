"""The position tables of a whole network fitted to images of another size."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from attnconv import checks
from attnconv.layers.augmented_conv import AugmentedConvNd, Size
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
            before, params_before = _text(layer), params(layer)
            layer.resize_feat_size(largest)
            changes.append(Change(name, before, _text(layer), largest, params_before, params(layer)))
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


def _text(layer: AugmentedConvNd) -> str:
    return f"feat_size {size_text(layer.feat_size or ())}"
