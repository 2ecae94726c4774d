"""The attention of one image position, in every attention layer of a network.

Each layer's queries and keys are computed again from its own input, and the weights of the one query from them, so
memory stays linear in the number of positions whatever the kernel.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from attnconv import checks
from attnconv.inactive import is_inactive
from attnconv.layers.activity import LogitChange, attention_off
from attnconv.layers.attention import Attention


@dataclass(frozen=True)
class AttentionMap:
    """The attention weights of one position in one layer."""

    layer: str  # dotted name of the module
    query: tuple[int, int]  # row and column of the position on the map of the weights
    weights: Tensor  # (heads, rows, columns); not negative and 1 in sum for each head, unless signed
    signed: bool = False  # any sign, any sum
    gamma: float | None = None  # by which the layer multiplies before it adds to its input; None: it does not add
    heads: tuple[int, ...] = ()  # the numbers of the heads in ``weights``, from 1; all of them if not given
    logits_moved: float | None = None  # by switching the layer off, as a share of their norm; None if not known
    active: bool = True  # False if switching the layer off moves the logits by next to nothing

    @property
    def inactive_text(self) -> str:
        """A sentence about a layer that does nothing for the image; "" of an active one."""
        if self.active or self.logits_moved is None:
            return ""
        return f"inactive: switching it off moves the logits by {self.logits_moved:.1g} of their norm"

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", self.heads or tuple(range(1, self.weights.shape[0] + 1)))


def attention_layers(model: nn.Module) -> dict[nn.Module, str]:
    """The layers of ``model`` that `attention_maps` looks at, with their dotted names."""
    return {layer: name for layer, name in _layers(model).items() if layer.has_map}


def _layers(model: nn.Module) -> dict[Attention, str]:
    return {layer: name for name, layer in model.named_modules() if isinstance(layer, Attention)}


def attention_maps(model: nn.Module, image: Tensor, point: tuple[int, int]) -> list[AttentionMap]:
    """One entry for each attention layer that runs on a map of rows and columns, in the order in which they run.

    For most layers, AugmentedConv2d and SelfAttention among them, the weights are softmax rows: with the layer's values
    they give its output at the query. For SimpleSelfAttention, which has no softmax, they are signed and do not sum to
    1: sum_i weights_i x_i is what it multiplies by gamma and adds to its input x at the query.

    Args:
        model: any network that holds such layers; it is run in eval mode, once, and once more with each of the layers
            switched off, and left as it was.
        image: (C, rows, columns), prepared as for the network, on its device.
        point: row and column of the query in image pixels.
    Raises:
        ValueError: the network has no attention layer with a map, or the point lies outside the image.
    """
    return attention_maps_of(model, image, [point])[0]


def attention_maps_of(model: nn.Module, image: Tensor, points: Sequence[tuple[int, int]]) -> list[list[AttentionMap]]:
    """`attention_maps` of each of ``points``, which cost no further runs of the network."""
    attention = ImageAttention(model, image)
    return [attention.maps(point) for point in points]


class ImageAttention:
    """Attention of any position of one image.

    The network is run once, and once more with each layer switched off, which tells whether the layer does anything for
    this image. The queries and keys of every layer are kept, so memory is linear in the number of positions, and a
    point costs no further run. ``output`` is what the network gave for the image, as a batch of one; ``without_map``
    names the attention layers that have no map to show, squeeze-excitation for example.

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
        self.size = (image.shape[1], image.shape[2])
        self._layers: list[tuple[nn.Module, Callable[[tuple[int, int]], AttentionMap]]] = []

        def look(layer: Any, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0].dim() == 4 and layer.has_map:  # a map of rows and columns
                weights = layer.attention_weights(inputs[0])
                if weights is None:
                    self.without_map += (names[layer],)
                else:
                    self._layers.append((layer, _map_of(layer, names[layer], inputs[0], weights, self.size)))

        hooks = [layer.register_forward_pre_hook(look) for layer in names]
        modes = {module: module.training for module in model.modules()}
        try:
            with torch.no_grad():
                self.output = model.eval()(image[None])
                for hook in hooks:
                    hook.remove()
                ran = dict.fromkeys(layer for layer, _ in self._layers)
                self._effects = _effects(model, image[None], self.output, ran)
        finally:
            for hook in hooks:
                hook.remove()
            for module, training in modes.items():
                module.training = training
        if not self._layers:
            raise checks.InputError(f"no attention layer of {type(model).__name__} ran on a map of rows and columns")

    @torch.no_grad()
    def maps(self, point: tuple[int, int]) -> list[AttentionMap]:
        """Return what `attention_maps` gives for ``point``; ValueError if that lies outside the image."""
        rows, columns = self.size
        if len(point) != 2 or not (0 <= point[0] < rows and 0 <= point[1] < columns):
            raise checks.InputError(f"the point must lie in the image of {rows} x {columns} pixels, got {point}")
        found = [(at(point), *self._effects[layer]) for layer, at in self._layers]
        return [replace(one, logits_moved=moved, active=active) for one, moved, active in found]


def without_map_text(layers: Sequence[str]) -> str:
    """Return a clause about attention layers that have no map to show, for squeeze-excitation has none."""
    return f"{', '.join(layers)} {'has' if len(layers) == 1 else 'have'} no attention map"


def choose_maps(
    maps: Sequence[AttentionMap], *, layer: str | None = None, head: int | None = None
) -> list[AttentionMap]:
    """Those of ``layer``, of ``head`` alone; all of them where None.

    Args:
        maps: of `attention_maps`.
        layer: dotted name.
        head: its number, from 1.
    Raises:
        ValueError: there is no such layer, or one of those chosen has no such head.
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
    at = [found.heads.index(head) for found in maps]
    return [replace(found, weights=found.weights[i, None], heads=(head,)) for found, i in zip(maps, at, strict=True)]


def _map_of(
    layer: Attention, name: str, x: Tensor, weights: Callable[[tuple[int, ...]], Tensor], size: tuple[int, int]
) -> Callable[[tuple[int, int]], AttentionMap]:
    """For the input ``x`` (1, C, H_in, W_in) and ``weights`` of ``layer``: a point of the image of ``size`` -> map."""
    queries = layer.attention_map_size(x)
    gamma = float(gate) if isinstance(gate := getattr(layer, "gamma", None), Tensor) and gate.numel() == 1 else None

    def at(point: tuple[int, int]) -> AttentionMap:
        found = weights(_cell(point, size, queries))
        # Keys and values may be pooled, and so have fewer cells than there are queries.
        return AttentionMap(name, _cell(point, size, found.shape[1:]), found, signed=layer.signed, gamma=gamma)

    return at


def _cell(point: tuple[int, int], size: tuple[int, int], cells: Sequence[int]) -> tuple[int, int]:
    """Return the cell, of a map of so many ``cells``, in which a point of an image of ``size`` lies."""
    return point[0] * cells[0] // size[0], point[1] * cells[1] // size[1]


def _effects(
    model: nn.Module, images: Tensor, output: Any, layers: Collection[nn.Module]
) -> dict[nn.Module, tuple[float | None, bool]]:
    """Return by how much switching each layer off moves the logits, as a share of their norm, and whether it is active.

    ``output`` is that of the network, (B, K) or (B, K, H, W) for B images and K classes; a run more for each layer. Of
    an output that is no tensor of finite logits nothing is known, and every layer counts as active.
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
