"""The attention of one image position, in every attention layer of a network.

Each layer's queries and keys are computed again from its own input, and the softmax row of the one query from them, so
memory stays linear in the number of positions whatever the kernel.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnconv import checks, ops
from attnconv.layers import AugmentedConv2d, SelfAttention


@dataclass(frozen=True)
class AttentionMap:
    """What one position attends to in one layer."""

    layer: str  # dotted name of the module
    query: tuple[int, int]  # row and column of the position on the layer's map
    weights: Tensor  # (heads, rows, columns), non-negative, each head's sum is 1


def attention_layers(model: nn.Module) -> dict[nn.Module, str]:
    """The layers of ``model`` that `attention_maps` looks at, with their dotted names."""
    return {m: name for name, m in model.named_modules() if isinstance(m, (AugmentedConv2d, SelfAttention))}


def attention_maps(model: nn.Module, image: Tensor, point: tuple[int, int]) -> list[AttentionMap]:
    """One entry for each AugmentedConv2d and SelfAttention of ``model``, in the order in which they run.

    Args:
        model: any network that holds such layers; it is run once, in eval mode, and left as it was.
        image: (C, rows, columns), prepared as for the network, on its device.
        point: row and column of the query in image pixels.
    Raises:
        ValueError: the network has no such layer, or the point lies outside the image.
    """
    if image.dim() != 3:
        raise checks.InputError(f"image must be (channels, rows, columns), got {tuple(image.shape)}")
    size = tuple(image.shape[1:])
    if not all(0 <= at < n for at, n in zip(point, size, strict=True)):
        raise checks.InputError(f"the point must lie in the image of {size[0]} x {size[1]} pixels, got {point}")
    names = attention_layers(model)
    if not names:
        raise checks.InputError(f"{type(model).__name__} has no attention layer to explain")

    found: list[AttentionMap] = []

    def look(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        q, k, tables, scale = _queries_keys(layer, inputs[0])
        rows, columns = q.shape[2:4]
        query = (point[0] * rows // size[0], point[1] * columns // size[1])
        weights = ops.attention_weights(q, k, tables, query=query, scale=scale)[0]
        found.append(AttentionMap(names[layer], query, weights))

    hooks = [layer.register_forward_pre_hook(look) for layer in names]
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()(image[None])
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return found


def _queries_keys(layer: AugmentedConv2d | SelfAttention, x: Tensor) -> tuple[Tensor, Tensor, Any, float | None]:
    """q, k (1, N, H, W, D), the tables and the scale with which ``layer`` attends for its input ``x``."""
    if isinstance(layer, AugmentedConv2d):
        q, k, _ = layer.queries_keys_values(x)
        return q, k, layer.tables, None
    q, k = (conv(x.flatten(2)).unflatten(2, x.shape[2:]).movedim(1, -1)[:, None] for conv in (layer.key, layer.query))
    return q, k, None, 1.0
