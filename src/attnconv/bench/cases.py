"""The cases and candidates of the benchmarks, by name. Loads no torch, so that a wrong name is refused at once.

Letters: B batch, N heads, T slices, H rows, W columns, L positions of the map, D key / E value channels a head, C
channels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attnconv import checks
from attnconv.kernels import IMPLS

FORWARD, BOTH = "forward", "forward+backward"

WITHOUT = "-without-positions"
# Ours, two of them without position terms, and the peers of `attnconv.bench.ops`.
RELATIVE_NAMES = (*IMPLS, "auto" + WITHOUT, "eager" + WITHOUT, "einsum", "sdpa-mask", "flex")
BILINEAR_NAMES = ("auto", "plain-scores", "plain-gram", "plain-gram_weight")
LAYER_NAMES = (
    "conv2d",
    *(f"augmented-{impl}" for impl in IMPLS),
    *("augmented-without-positions", "attention-alone", "timm-bottleneck"),
)
LAYER_HEADS = 8

SIZES = (8, 16, 32, 64, 128)
SWEEP_LOGITS = 2**26  # of a sweep's batch: 268 MB in float32


@dataclass(frozen=True)
class RelativeCase:
    """q, k (B, N, *map, D), v (B, N, *map, E) and, if ``tables``, one for each of the one to three axes."""

    name: str
    batch: int
    heads: int
    map_size: tuple[int, ...]
    key_dim: int
    value_dim: int
    tables: bool = True

    @property
    def logits(self) -> int:
        """One for each query and key position."""
        return self.batch * self.heads * math.prod(self.map_size) ** 2

    def exps(self, backward: bool) -> int:
        """One for each logit; a backward of linear memory computes them again."""
        return self.logits * (2 if backward else 1)

    def macs(self, backward: bool) -> int:
        """Multiply-adds of the products that every kernel of linear memory needs; position terms need fewer.

        Forward the logits and the output; backward the logits again, and the gradients of weights, v, q and k.
        """
        forward = self.key_dim + self.value_dim
        return self.logits * (forward + 3 * self.key_dim + 2 * self.value_dim if backward else forward)

    @property
    def shape(self) -> dict[str, int]:
        """Names and sizes, as records have them."""
        axes = dict(zip(("T", "H", "W")[-len(self.map_size) :], self.map_size, strict=True))
        sizes = {"B": self.batch, "N": self.heads, **axes, "D": self.key_dim, "E": self.value_dim}
        return sizes if self.tables else {**sizes, "tables": 0}


@dataclass(frozen=True)
class BilinearCase:
    """x (B, C, L), W (C, C), gamma (1,)."""

    name: str
    batch: int
    channels: int
    positions: int


@dataclass(frozen=True)
class LayerCase:
    """x (B, C, H, W); each layer's output has the same shape."""

    name: str
    batch: int
    channels: int
    map_size: tuple[int, int]

    @property
    def logits(self) -> int:
        """The number of logits of LAYER_HEADS heads."""
        return self.batch * LAYER_HEADS * (self.map_size[0] * self.map_size[1]) ** 2


RELATIVE = (
    RelativeCase("S1", 8, 8, (32, 32), 20, 2),
    RelativeCase("S2", 2, 8, (56, 56), 20, 2),
    RelativeCase("S3", 1, 8, (64, 64), 20, 2),
    RelativeCase("S4", 32, 8, (14, 14), 20, 3),
    RelativeCase("S5", 4, 4, (28, 28), 40, 16),
    RelativeCase("S6", 64, 8, (7, 7), 20, 8),
    RelativeCase("R14", 8, 8, (14, 14), 32, 6),  # stages 3 and 4 of aa_resnet50 at 224 pixels
    RelativeCase("R7", 8, 8, (7, 7), 64, 12),
    RelativeCase("SAGAN", 8, 1, (32, 32), 32, 256, tables=False),
    RelativeCase("1D", 2, 4, (4096,), 20, 4),
    RelativeCase("3D", 2, 4, (8, 16, 16), 20, 4),
    RelativeCase("G1", 128, 8, (32, 32), 20, 2),  # for a GPU
    RelativeCase("G2", 128, 8, (16, 16), 20, 4),
    RelativeCase("G3", 128, 8, (28, 28), 20, 2),
)
BILINEAR = (
    BilinearCase("X1", 64, 256, 1024),
    BilinearCase("X2", 16, 256, 4096),
    BilinearCase("X3", 64, 512, 64),
    BilinearCase("X4", 64, 1024, 256),
    BilinearCase("X5", 64, 2048, 16),
)
LAYERS = (
    LayerCase("L1", 8, 64, (16, 16)),  # the second layer of convnet3 at 32 pixels
    LayerCase("L2", 8, 160, (32, 32)),  # the first stage of wide_resnet28_10
    LayerCase("L3", 8, 128, (28, 28)),  # stages 2 and 3 of resnet50 at 224 pixels
    LayerCase("L4", 8, 256, (14, 14)),
)


def relative_sweep(sizes: Sequence[int]) -> list[RelativeCase]:
    """Return relative attention on square maps, N = 8, D = 20, E = 2."""
    maps = sweep_maps(sizes, heads=8)
    return [RelativeCase(name, batch, 8, map_size, 20, 2) for name, batch, map_size in maps]


def layer_sweep(sizes: Sequence[int]) -> list[LayerCase]:
    """Return square maps of 64 channels."""
    return [LayerCase(name, batch, 64, map_size) for name, batch, map_size in sweep_maps(sizes, heads=LAYER_HEADS)]


def sweep_maps(sizes: Sequence[int], *, heads: int) -> list[tuple[str, int, tuple[int, int]]]:
    """Return name, batch and map of each size; the batch shrinks as the map grows, from 64 images down to one."""
    for n in sizes:
        checks.integer("a size of the sweep", n, at_least=1)
    return [(f"map{n}", max(1, min(64, SWEEP_LOGITS // (heads * n**4))), (n, n)) for n in sizes]


def map_size_of(case: Any) -> int | None:
    """Return the side of a case of `sweep_maps`; None of another one."""
    side = case.map_size[0]
    return side if case.name == f"map{side}" else None
