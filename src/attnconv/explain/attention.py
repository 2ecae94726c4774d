"""The attention of one image position, in every attention layer of a network.

The queries and keys of each layer are recomputed from its input, and from them the weights of the one query, so memory
stays linear in the number of positions whatever the kernel.
"""

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from attnconv import checks
from attnconv.inactive import is_inactive
from attnconv.layers.activity import LogitChange, attention_off, evaluation_mode, map_given
from attnconv.layers.attention import Attention

SMALLEST_DRAWN = 4  # cells a side: a smaller map over a photo suggests places that it does not resolve


@dataclass(frozen=True)
class AttentionMap:
    """The attention weights of one position in one layer."""

    layer: str  # dotted name of the module
    query: tuple[int, int]  # cell of the position: row and column on the map of the weights
    weights: Tensor  # (heads, rows, columns); not negative, and 1 in sum for each head, unless signed
    signed: bool = False  # any sign, any sum
    gamma: float | None = None  # factor of what the layer adds to its input; None if it does not add
    heads: tuple[int, ...] = ()  # numbers of the heads in ``weights``, from 1; all of them if not given
    logits_moved: float | None = None  # by switching the layer off, as a share of their norm; None if unknown
    active: bool = True  # False if switching the layer off hardly moves the logits
    chosen: bool = False  # True if ``heads`` is one that was asked for by its number

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", self.heads or tuple(range(1, self.weights.shape[0] + 1)))

    @property
    def is_coarse(self) -> bool:
        """True if the map has too few cells to be drawn over an image."""
        return min(self.weights.shape[1:]) < SMALLEST_DRAWN

    @property
    def remark(self) -> str:
        """A clause about an inactive layer or a coarse map; "" for any other."""
        if not self.active and self.logits_moved is not None:
            return f"inactive: switching it off moves the logits by {self.logits_moved:.1g} of their norm"
        if self.is_coarse:
            rows, columns = self.weights.shape[1:]
            return f"not drawn: its map of {rows} x {columns} cells is below {SMALLEST_DRAWN} x {SMALLEST_DRAWN}"
        return ""


def attention_layers(model: nn.Module) -> dict[nn.Module, str]:
    """Return the layers of ``model`` that `attention_maps` covers, with their dotted names."""
    return {layer: name for layer, name in _layers(model).items() if layer.has_map}


def _layers(model: nn.Module) -> dict[Attention, str]:
    return {layer: name for name, layer in model.named_modules() if isinstance(layer, Attention)}


def attention_maps(model: nn.Module, image: Tensor, point: tuple[int, int]) -> list[AttentionMap]:
    """Return the map of each attention layer that runs on rows and columns, in the order in which they run.

    For most layers, AugmentedConv2d and SelfAttention among them, the weights are softmax rows: applied to the layer's
    values they give its output at the query. Those of SimpleSelfAttention, which has no softmax, are signed and do not
    sum to 1: the layer multiplies sum_i weights_i x_i by gamma and adds it to its input x at the query.

    For many points of one image, `ImageAttention` runs the network no more often than for one.

    Args:
        model: any network with such layers. It runs in eval mode, once, and once more with each layer switched off; its
            state is restored.
        image: (C, rows, columns), prepared as for the network, on its device.
        point: row and column of the query in image pixels.
    Raises:
        ValueError: the network has no attention layer with a map, or the point lies outside the image.
    """
    return ImageAttention(model, image).maps(point)


class ImageAttention:
    """The attention of every position of one image.

    The network runs once, and once more with each layer switched off, which tells whether the layer matters for this
    image. The queries and keys of every layer are kept, so memory is linear in the number of positions and a point
    costs no further run. ``output`` is the network's, for a batch of one; ``without_map`` names the attention layers
    that have no map, such as squeeze-excitation.

    Args:
        model: as `attention_maps`.
        image: as `attention_maps`.
    Raises:
        ValueError: the network has no attention layer with a map.
    """

    output: Any
    without_map: tuple[str, ...]

    def __init__(self, model: nn.Module, image: Tensor) -> None:
        if image.dim() != 3:
            raise checks.InputError(f"image must be (channels, rows, columns), got {tuple(image.shape)}")
        names = _layers(model)
        self.without_map = tuple(name for layer, name in names.items() if not layer.has_map)
        if not any(layer.has_map for layer in names):
            what = type(model).__name__
            if self.without_map:
                raise checks.InputError(f"nothing in {what} can be explained: {without_map_text(self.without_map)}")
            raise checks.InputError(f"{what} has no attention layer to explain")
        self.image, self.size = image, (image.shape[1], image.shape[2])
        self._layers: list[tuple[nn.Module, Callable[[tuple[int, int]], AttentionMap]]] = []

        def look(layer: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            x = map_given(layer, inputs, named)
            if x.dim() == 4 and layer.has_map:  # a map of rows and columns
                weights = layer.attention_weights(x)
                if weights is None:
                    self.without_map += (names[layer],)
                else:
                    self._layers.append((layer, _map_of(layer, names[layer], x, weights, self.size)))

        with torch.no_grad(), evaluation_mode(model):
            with ExitStack() as stack:
                for layer in names:
                    stack.enter_context(layer.register_forward_pre_hook(look, with_kwargs=True))
                self.output = model(image[None])
            ran = dict.fromkeys(layer for layer, _ in self._layers)
            self._effects = _effects(model, image[None], self.output, ran)
        if not self._layers:
            raise checks.InputError(f"no attention layer of {type(model).__name__} ran on a map of rows and columns")

    @torch.no_grad()
    def maps(self, point: tuple[int, int]) -> list[AttentionMap]:
        """Return the maps of ``point``, as `attention_maps`; ValueError if it lies outside the image."""
        rows, columns = self.size
        if len(point) != 2 or not (0 <= point[0] < rows and 0 <= point[1] < columns):
            raise checks.InputError(f"the point must lie in the image of {rows} x {columns} pixels, got {point}")
        found = [(at(point), *self._effects[layer]) for layer, at in self._layers]
        return [replace(one, logits_moved=moved, active=active) for one, moved, active in found]


def without_map_text(layers: Sequence[str]) -> str:
    """Return a clause about attention layers that have no map, such as squeeze-excitation."""
    return f"{', '.join(layers)} {'has' if len(layers) == 1 else 'have'} no attention map"


def choose_maps(
    maps: Sequence[AttentionMap], *, layer: str | None = None, head: int | None = None
) -> list[AttentionMap]:
    """Return the maps of one layer, of one head, or both.

    Args:
        maps: of `attention_maps`.
        layer: dotted name; every layer if None.
        head: number from 1; every head if None.
    Raises:
        ValueError: no map is of that layer, or a chosen layer lacks that head.
    """
    if layer is not None:
        checks.one_of("attention layer", layer, dict.fromkeys(found.layer for found in maps))
        maps = [found for found in maps if found.layer == layer]
    if head is None:
        return list(maps)
    checks.integer("head", head, at_least=1)
    for found in maps:
        if head not in found.heads:
            there = "it has one, number 1" if len(found.heads) == 1 else f"its heads are 1 to {found.heads[-1]}"
            raise checks.InputError(f"attention layer {found.layer!r} has no head {head}: {there}")
    return [
        replace(found, weights=found.weights[found.heads.index(head), None], heads=(head,), chosen=True)
        for found in maps
    ]


def drawable(maps: Sequence[AttentionMap]) -> list[AttentionMap]:
    """Return the maps of at least 4 x 4 cells; ValueError if there are none."""
    if fine := [found for found in maps if not found.is_coarse]:
        return fine
    sizes = ", ".join("{} has {} x {} cells".format(m.layer, *m.weights.shape[1:]) for m in maps)
    raise checks.InputError(f"nothing to draw: {sizes}; a picture needs {SMALLEST_DRAWN} x {SMALLEST_DRAWN}")


def _map_of(
    layer: Attention, name: str, x: Tensor, weights: Callable[[tuple[int, ...]], Tensor], size: tuple[int, int]
) -> Callable[[tuple[int, int]], AttentionMap]:
    """Return a function from a point of the image of ``size`` to the map of ``layer``, whose input is ``x``."""
    queries = layer.attention_map_size(x)
    gamma = float(gate) if isinstance(gate := getattr(layer, "gamma", None), Tensor) and gate.numel() == 1 else None

    def at(point: tuple[int, int]) -> AttentionMap:
        found = weights(_cell(point, size, queries))
        # Pooled keys and values have fewer cells than the queries.
        return AttentionMap(name, _cell(point, size, found.shape[1:]), found, signed=layer.signed, gamma=gamma)

    return at


def _cell(point: tuple[int, int], size: tuple[int, int], cells: Sequence[int]) -> tuple[int, int]:
    """Return the cell in which a point of an image of ``size`` lies, on a map of ``cells`` rows and columns."""
    return point[0] * cells[0] // size[0], point[1] * cells[1] // size[1]


def _effects(
    model: nn.Module, images: Tensor, output: Any, layers: Collection[nn.Module]
) -> dict[nn.Module, tuple[float | None, bool]]:
    """Return, for each layer, how far switching it off moves the logits (a share of their norm) and if it is active.

    ``output`` is the network's, (B, K) or (B, K, H, W) for B images and K classes. Costs one run a layer. If it is no
    tensor of finite logits, the effect is unknown and every layer counts as active.
    """
    if not isinstance(output, Tensor) or output.dim() < 2 or not output.is_floating_point():
        return dict.fromkeys(layers, (None, True))
    found: dict[nn.Module, tuple[float | None, bool]] = {}
    for layer in layers:
        change = LogitChange()
        with attention_off(model, only=[layer]):
            change.add(output, model(images))
        moved = change.logits_moved
        known = math.isfinite(moved)
        found[layer] = (moved, not is_inactive(moved, change.predictions_changed)) if known else (None, True)
    return found
