"""Multiply-adds, FLOPs and attention memory of a network for one image, counted without computing anything.

The full count is 2 FLOPs a multiply-add (MAC) of every convolution, matrix product and position term. The paper's
count (Bello et al. 2019, arXiv:1904.09925, tables 1 and 2) takes 1 FLOP a MAC for the two attention products and leaves
the position terms out; its rows fit no other reading.
Letters: N heads, L positions of the map, D key / E value channels a head.
"""

import copy
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from attnconv.layers import SelfAttention
from attnconv.layers.augmented_conv import AugmentedConvNd

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class AttentionCost:
    """One attention layer and one image."""

    name: str
    map_size: tuple[int, ...]
    num_heads: int
    product_macs: int  # q k^T and the weights times v
    position_macs: int  # q times the tables
    eager_bytes: int  # the logits of all pairs of positions, float32
    linear_bytes: int  # q, k, v, the output and one log-sum-exp a query, float32


@dataclass(frozen=True)
class Cost:
    """A network and one image."""

    params: int
    macs: int
    flops: int
    paper_flops: int
    attention: tuple[AttentionCost, ...]

    def to_dict(self) -> dict:
        return asdict(self)


def cost(model: nn.Module, *, in_channels: int, image_size: tuple[int, int]) -> Cost:
    """Count ``model`` on one image (1, in_channels, rows, columns), on the meta device."""
    shadow = copy.deepcopy(model).to("meta").eval()
    found: list[AttentionCost] = []
    names = {layer: name for name, layer in shadow.named_modules()}

    def record(layer: Any, _: Any, y: Any) -> None:
        found.append(_attention(names[layer], layer, tuple(y.shape[2:])))

    for layer in names:
        if isinstance(layer, (AugmentedConvNd, SelfAttention)):
            layer.register_forward_hook(record)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shadow(torch.empty(1, in_channels, *image_size, device="meta"))
    flops = counter.get_total_flops()
    products, positions = (sum(getattr(a, kind) for a in found) for kind in ("product_macs", "position_macs"))
    return Cost(
        params=sum(p.numel() for p in model.parameters()),
        macs=flops // 2,
        flops=flops,
        paper_flops=flops - products - 2 * positions,
        attention=tuple(found),
    )


def _attention(name: str, layer: AugmentedConvNd | SelfAttention, map_size: tuple[int, ...]) -> AttentionCost:
    """The cost of one attention layer whose output map is ``map_size``."""
    if isinstance(layer, SelfAttention):
        heads, keys, values, tables = 1, layer.query.out_channels, layer.channels, False
    else:
        map_size = layer.attention_map_size(map_size)
        heads, keys, values = layer.num_heads, layer.key_channels, layer.value_channels
        tables = layer.position == "relative"
    positions = math.prod(map_size)
    return AttentionCost(
        name=name,
        map_size=map_size,
        num_heads=heads,
        product_macs=positions**2 * (keys + values),
        position_macs=positions * sum(map_size) * keys if tables else 0,
        eager_bytes=FLOAT32_BYTES * heads * positions**2,
        linear_bytes=FLOAT32_BYTES * positions * (2 * keys + 2 * values + heads),
    )
