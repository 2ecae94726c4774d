"""timm's attention modules as attention layers: timm:se, timm:eca, timm:cbam, timm:gc, timm:nl and more.

Sources: the modules of `timm.layers.create_attn`. Most scale their input and change it from the start; non-local
attention starts as the identity, since its last norm is 0.
Letters: B batch, C channels, L positions of the map.
"""

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from attnconv import checks
from attnconv.layers.attention import Attention, AttentionCost

TIMM = "timm:"
# All names of create_attn; some need options, such as feat_size.
NAMES = (
    *("se", "ese", "eca", "ecam", "ceca", "ge", "gc", "gca", "cbam", "lcbam"),
    *("coord", "scoord", "ela", "strip", "sk", "splat", "lambda", "bottleneck", "halo", "nl", "bat"),
)
PAPERS = {
    name: f"{authors}, [arXiv:{number}](https://arxiv.org/abs/{number})"
    for name, authors, number in (
        ("se", "squeeze-excitation, Hu et al. 2018", "1709.01507"),
        ("eca", "efficient channel attention, Wang et al. 2020", "1910.03151"),
        ("cbam", "convolutional block attention, Woo et al. 2018", "1807.06521"),
        ("gc", "global context, Cao et al. 2019", "1904.11492"),
        ("nl", "non-local networks, Wang et al. 2018", "1711.07971"),
    )
}


class TimmAttention(Attention):
    """One of timm's attention modules, which weights channels or places, not pairs of positions.

    Shapes: (B, C, H, W) -> the same.

    Args:
        channels: C.
        name: name in `timm.layers.create_attn`.
        options: options of the module.
    """

    def __init__(self, channels: int, *, name: str, **options: Any) -> None:
        super().__init__()
        self.name, self.channels = name, checks.integer("channels", channels, at_least=1)
        self.layer: nn.Module = timm_options(name)(channels, **options)
        paper = PAPERS.get(name, "")
        self.citation = f"timm's {name}{paper and ': '}{paper}."

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def short_repr(self) -> str:
        return f"{TIMM}{self.name}({self.channels})"


class TimmNonLocal(TimmAttention):
    """timm:nl, where each position attends to all."""

    def attention_weights(self, x: Tensor) -> Callable[[tuple[int, ...]], Tensor]:
        """Return a function from a cell of the map to its weights (1, *map), which sum to 1."""
        layer: Any = self.layer
        q, k = layer.t(x).flatten(2)[0], layer.p(x).flatten(2)[0]  # (D, L)
        map_size = x.shape[2:]

        def weights(query: tuple[int, ...]) -> Tensor:
            at = query[0] * map_size[1] + query[1]
            return (q[:, at] @ k * layer.scale).softmax(0).reshape(1, *map_size)

        return weights

    def attention_cost(self, map_size: tuple[int, ...]) -> AttentionCost:
        """Return the cost of attention on a map of ``map_size``."""
        layer: Any = self.layer
        channels = layer.t.out_channels
        return AttentionCost.of_all_pairs(map_size, num_heads=1, key_channels=channels, value_channels=channels)


class TimmGlobalContext(TimmAttention):
    """timm:gc and timm:gca, where all positions share their weights."""

    def attention_weights(self, x: Tensor) -> Callable[[tuple[int, ...]], Tensor] | None:
        """Return a function from any cell of the map to the weights (1, *map), which sum to 1."""
        layer: Any = self.layer
        if layer.conv_attn is None:
            return None
        shares = layer.conv_attn(x)[0].flatten().softmax(0).reshape(1, *x.shape[2:])
        return lambda query: shares


MAPPED = {"nl": TimmNonLocal, "gc": TimmGlobalContext, "gca": TimmGlobalContext}


def timm_layer(name: str) -> Callable[..., TimmAttention]:
    """Return a function of channels and options that makes the layer ``name`` of `timm.layers.create_attn`."""
    return functools.partial(MAPPED.get(name, TimmAttention), name=name)


def timm_options(name: str) -> Any:
    """Return timm's class of that name, which takes channels and options.

    Raises:
        InputError: unknown name (the nearest is named), or timm is not installed.
    """
    layers = checks.require("timm", extra="timm").layers
    checks.one_of("attention layer of timm:", name, NAMES)
    return layers.get_attn(name)
