"""Self-attention with a residual and a gate that starts at 0: SAGAN's layer and SimpleSelfAttention.

Sources: Zhang et al. 2018, arXiv:1805.08318, section 3, with fastai's names and shapes; SimpleSelfAttention (2019).
Departures from the latter: ``symmetric`` makes the weight symmetric, S can be divided by the number of positions, and
the products run in the cheapest order.
Letters: B batch, C channels, L positions of the map, D key / E value channels.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnconv import checks, ops
from attnconv.layers.attention import AttentionCost, GatedAttention, has_own_hooks
from attnconv.layers.spectral_norm import ConstrainedConv1d, constrained_conv, refuse_vmap_in_training
from attnconv.ops.bilinear_attention import bilinear_attention_of, gated, weights_of_keys

SAGAN = "Zhang et al. 2018, [arXiv:1805.08318](https://arxiv.org/abs/1805.08318)"


class SelfAttention(GatedAttention):
    """SAGAN's attention with one head: y = gamma * o + x with o_j = sum_i softmax_i(f_i . g_j) h_i.

    f, g, h are query(x), key(x), value(x). The paper's code has pool=2 and value_ratio=1/2: f and h are maxima over 2x2
    cells, h is narrower than x, and y = gamma * out(o) + x. It calls g theta, f phi, h g, out o, and gamma sigma.

    Shapes: (B, C, *map) -> the same, any number of map axes. gamma starts at 0, where the output is x.
    Memory: linear in the number of positions; quadratic on small maps, under torch.func and in forward mode.

    Args:
        channels: C.
        key_ratio: channels of queries and keys over C; at least one channel.
        value_ratio: channels of the values over C, which ``out`` maps back to C; None: C channels and no ``out``.
        pool: 2 pools keys and values by maxima over 2 cells per axis; an odd last cell is dropped, and an axis of one
            cell is not pooled.
        bias: bias of all convolutions.
        spectral_norm: divide each weight by its largest singular value, as published.
    Raises:
        ValueError: in the constructor if a ratio is not above 0 and at most 1, or pool is not 1 or 2; in forward if the
            input has no batch axis or other channels.
    """

    citation = f"SAGAN's self-attention: {SAGAN}."

    def __init__(
        self,
        channels: int,
        *,
        key_ratio: float = 1 / 8,
        value_ratio: float | None = None,
        pool: int = 1,
        bias: bool = False,
        spectral_norm: bool = True,
    ) -> None:
        super().__init__(channels)
        for name, ratio in (("key_ratio", key_ratio), ("value_ratio", 1 if value_ratio is None else value_ratio)):
            if not 0 < checks.number(name, ratio) <= 1:
                raise checks.InputError(f"{name} must be above 0 and at most 1, got {ratio}")
        if (pool := checks.integer("pool", pool, at_least=1)) not in (1, 2):
            raise checks.InputError(f"pool must be 1 or 2, got {pool}")
        self.pool = pool
        options = {"bias": checks.flag("bias", bias), "spectral_norm": spectral_norm}
        keys, values = (max(1, int(channels * ratio)) for ratio in (key_ratio, value_ratio or 1))
        self.query = constrained_conv(channels, keys, **options)
        self.key = constrained_conv(channels, keys, **options)
        self.value = constrained_conv(channels, values, **options)
        self.out = None if value_ratio is None else constrained_conv(values, channels, **options)

    @refuse_vmap_in_training
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        self._require_map(x)
        flat, mask = x.flatten(2), self.input_mask(x, mask)  # (B, C, L)
        # The softmax runs over the positions of query(x), which the op calls keys.
        f, g, h = (conv(flat) for conv in (self.query, self.key, self.value))  # (B, D or E, L)
        f, h = (self._pooled(t, x.shape[2:], mask).flatten(2) for t in (f, h))
        k, q, v = (t.transpose(1, 2)[:, None] for t in (f, g, h))  # (B, 1, L or that of the pooled map, D or E)
        keys = None if mask is None else self._pooled_mask(mask).flatten(1)
        o = self.attend(ops.relative_attention, q, k, v, None, mask=keys, scale=1.0)  # (B, 1, L, E)
        o = o[:, 0].transpose(1, 2)  # (B, E, L)
        o = (o if self.out is None else self.out(o)).unflatten(2, x.shape[2:])  # (B, C, *map)
        return (x + gated(self.gamma, o)).to(x.dtype)  # x first: the sum has its memory format

    def _pooled(self, t: Tensor, map_size: tuple[int, ...], mask: Tensor | None) -> Tensor:
        """Return the maxima (B, D, *pooled map) over valid cells of t (B, D, L); 0 without any."""
        y = t.reshape(*t.shape[:2], *map_size)  # not unflatten, as in AugmentedConvNd
        if self.pool == 1:
            return y
        if mask is None:
            return _maxima(y)
        y = _maxima(y.masked_fill(~mask[:, None], float("-inf")))
        return y.masked_fill(~self._pooled_mask(mask)[:, None], 0)

    def _pooled_mask(self, mask: Tensor) -> Tensor:
        """Return the mask of the pooled map, True where any pooled cell is valid."""
        return mask if self.pool == 1 else _maxima(mask[:, None].float())[:, 0] > 0

    def attention_weights(self, x: Tensor, mask: Tensor | None = None) -> Callable[[tuple[int, ...]], Tensor]:
        """Return a function from a cell of the map to its weights (1, *pooled map), which sum to 1."""
        mask = self.input_mask(x, mask)
        # The op calls key(x) queries: see forward.
        flat, map_size = x.flatten(2), x.shape[2:]
        q = self.key(flat).unflatten(2, map_size).movedim(1, -1)[:, None]
        k = self._pooled(self.query(flat), map_size, mask).movedim(1, -1)[:, None]
        keys = None if mask is None else self._pooled_mask(mask)
        return lambda query: ops.attention_weights(q, k, None, query=query, mask=keys, scale=1.0)[0]

    def attention_cost(self, map_size: tuple[int, ...]) -> AttentionCost:
        """Return the cost of attention on a map of ``map_size``."""
        return AttentionCost.of_all_pairs(
            map_size,
            key_map=tuple(max(n // self.pool, 1) for n in map_size),
            num_heads=1,
            key_channels=self.query.out_channels,
            value_channels=self.value.out_channels,
        )

    def extra_repr(self) -> str:
        return f"{self.channels}" + (f", pool={self.pool}" if self.pool > 1 else "")


class SimpleSelfAttention(GatedAttention):
    """SimpleSelfAttention: y = gamma * x S + x with S = x^T W x, one weight and no softmax.

    Shapes: (B, C, *map) -> the same, any number of map axes. gamma starts at 0, where the output is x.
    Memory: at most linear in L, since S is formed only where L < C.

    Args:
        channels: C.
        symmetric: use (W + W^T) / 2, so that two positions influence each other equally.
        normalize: divide S by L, so that its scale does not depend on the size of the map.
        spectral_norm: divide W by its largest singular value, as published.
    Raises:
        ValueError: in forward if the input has no batch axis or other channels.
    """

    signed = True
    citation = f"SimpleSelfAttention (2019), after SAGAN's self-attention: {SAGAN}."

    def __init__(
        self, channels: int, *, symmetric: bool = False, normalize: bool = False, spectral_norm: bool = True
    ) -> None:
        super().__init__(channels)
        self.symmetric = checks.flag("symmetric", symmetric)
        self.normalize = checks.flag("normalize", normalize)
        self.conv = constrained_conv(channels, channels, spectral_norm=spectral_norm, symmetric=symmetric)

    @refuse_vmap_in_training
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        self._require_map(x)
        options = {"mask": self.input_mask(x, mask), "normalize": self.normalize}
        if not self._conv_is_its_weight():
            h = self.conv(x.flatten(2))  # outside the checkpoint: it may draw random numbers or count calls
            return self.attend(bilinear_attention_of, x, h, self.gamma, **options)
        # Read once: under spectral norm each access in training is a step of the power iteration.
        return self.attend(ops.bilinear_attention, x, self.conv.weight, self.gamma, **options)

    def _conv_is_its_weight(self) -> bool:
        """True unless ``conv`` must be called, as a replaced module (LoRA) or with hooks (pruning, FSDP)."""
        return (
            isinstance(self.conv, ConstrainedConv1d)
            and self.conv.kernel_size == (1,)
            and type(self.conv).forward is nn.Conv1d.forward
            and not has_own_hooks(self.conv)
        )

    def attention_weights(self, x: Tensor, mask: Tensor | None = None) -> Callable[[tuple[int, ...]], Tensor]:
        """Return a function from a cell of the map to its signed weights, whose sum gamma multiplies."""
        x = x.clone()  # later modules may change the input in place
        mask = self.input_mask(x, mask)
        if not self._conv_is_its_weight():
            h = self.conv(x.flatten(2)).unflatten(2, x.shape[2:])
            of_keys = weights_of_keys(mask, h.dtype, normalize=self.normalize)
            summed = x if of_keys is None else x * of_keys.unflatten(2, x.shape[2:])
            positions = math.prod(x.shape[2:]) if self.normalize else 1
            return lambda query: torch.einsum("bc,bc...->b...", h[(..., *query)], summed) / positions
        weight = self.conv.weight
        return lambda query: ops.bilinear_weights(x, weight, query=query, mask=mask, normalize=self.normalize)

    def extra_repr(self) -> str:
        return f"{self.channels}, symmetric={self.symmetric}, normalize={self.normalize}"


def _maxima(x: Tensor) -> Tensor:
    """Return maxima (B, C, *pooled map) over 2 cells per axis of x (B, C, *map); an axis of one cell stays."""
    window, axes = [2 if n > 1 else 1 for n in x.shape[2:]], x.dim() - 2
    if axes > 3:  # the first axis separately: torch pools at most three
        rest = _maxima(x.flatten(1, 2)).unflatten(1, x.shape[1:3])
        return F.max_pool2d(rest.flatten(3), (window[0], 1)).unflatten(3, rest.shape[3:])
    return (F.max_pool1d, F.max_pool2d, F.max_pool3d)[axes - 1](x, window)
