"""Self-attention with a residual and a gate that starts closed: SAGAN's, and SimpleSelfAttention.

Sources: Zhang et al. 2018, arXiv:1805.08318, section 3, with the names and shapes that fastai gave it;
SimpleSelfAttention (2019). Departures from the latter: ``symmetric`` is truly symmetric, S can be divided by the number
of positions, and the products run in the cheapest order.
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
    """SAGAN's layer, of one head.

    y = gamma * o + x, where o_j = sum_i softmax_i(f_i . g_j) h_i with f, g, h = query(x), key(x), value(x). The paper's
    code has pool=2 and value_ratio=1/2: f and h are maxima over 2x2 cells, h is narrower than x, and y = gamma * out(o)
    + x. There g is theta, f phi, h g, out o, and gamma sigma.

    Shapes: (B, C, *map) -> the same, any number of map axes. gamma starts at 0, where the output is x.
    Memory: linear in the number of positions; its square on small maps, under torch.func and in forward mode.

    Args:
        channels: C.
        key_ratio: width of queries and keys as a part of C; at least one channel.
        value_ratio: width of the values as a part of C, from which ``out`` leads back to C; C values and no ``out`` if
            None.
        pool: 2 takes the maxima over 2 cells an axis of what the softmax runs over, and of the values. The odd end of
            an axis is dropped, and an axis of one cell is not pooled.
        bias: of all convolutions.
        spectral_norm: divide each weight by its largest singular value, as published.
    Raises:
        ValueError: here, for a ratio that is not above 0 and at most 1, or another pool than 1 and 2; in forward, for
            an input without batch axis or of other channels.
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
        # The softmax runs over the positions of query(x), so those are what the op calls keys.
        f, g, h = (conv(flat) for conv in (self.query, self.key, self.value))  # (B, D or E, L)
        f, h = (self._pooled(t, x.shape[2:], mask).flatten(2) for t in (f, h))
        k, q, v = (t.transpose(1, 2)[:, None] for t in (f, g, h))  # (B, 1, L or that of the pooled map, D or E)
        keys = None if mask is None else self._pooled_mask(mask).flatten(1)
        o = self.attend(ops.relative_attention, q, k, v, None, mask=keys, scale=1.0)  # (B, 1, L, E)
        o = o[:, 0].transpose(1, 2)  # (B, E, L)
        o = (o if self.out is None else self.out(o)).unflatten(2, x.shape[2:])  # (B, C, *map)
        return (x + gated(self.gamma, o)).to(x.dtype)  # x first: the sum takes its memory format

    def _pooled(self, t: Tensor, map_size: tuple[int, ...], mask: Tensor | None) -> Tensor:
        """(B, D, L) -> (B, D, *pooled map): the maxima over valid cells, 0 where there are none."""
        y = t.reshape(*t.shape[:2], *map_size)  # not unflatten, as in AugmentedConvNd
        if self.pool == 1:
            return y
        if mask is None:
            return _maxima(y)
        y = _maxima(y.masked_fill(~mask[:, None], float("-inf")))
        return y.masked_fill(~self._pooled_mask(mask)[:, None], 0)

    def _pooled_mask(self, mask: Tensor) -> Tensor:
        """Return the cells of the pooled map over which one cell is valid."""
        return mask if self.pool == 1 else _maxima(mask[:, None].float())[:, 0] > 0

    def attention_weights(self, x: Tensor, mask: Tensor | None = None) -> Callable[[tuple[int, ...]], Tensor]:
        """Return a function: a cell of the map -> its shares of one head, which sum to 1, on the pooled map."""
        mask = self.input_mask(x, mask)
        # What the op calls queries is key(x): see forward.
        flat, map_size = x.flatten(2), x.shape[2:]
        q = self.key(flat).unflatten(2, map_size).movedim(1, -1)[:, None]
        k = self._pooled(self.query(flat), map_size, mask).movedim(1, -1)[:, None]
        keys = None if mask is None else self._pooled_mask(mask)
        return lambda query: ops.attention_weights(q, k, None, query=query, mask=keys, scale=1.0)[0]

    def attention_cost(self, map_size: tuple[int, ...]) -> AttentionCost:
        """Return the cost on a map of that size, of one head."""
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
    """y = gamma * x S + x with S = x^T W x, the influence of each position on each other: no softmax, one weight.

    Shapes: (B, C, *map) -> the same, any number of map axes. gamma starts at 0, where the output is x.
    Memory: linear in L, or less, since S is formed only where L < C.

    Args:
        channels: C.
        symmetric: use (W + W^T) / 2, so that two positions influence each other equally.
        normalize: divide S by L, so that its size does not depend on the map's.
        spectral_norm: divide W by its largest singular value, as published.
    Raises:
        ValueError: in forward, for an input without batch axis or of other channels.
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
            h = self.conv(x.flatten(2))  # outside of the checkpoint: it may draw random numbers, or count its calls
            return self.attend(bilinear_attention_of, x, h, self.gamma, **options)
        # The weight is read once: under spectral norm each reading in training is a step of the power iteration.
        return self.attend(ops.bilinear_attention, x, self.conv.weight, self.gamma, **options)

    def _conv_is_its_weight(self) -> bool:
        """False if ``conv`` has to be called: another module stands there (LoRA), or it has hooks (pruning, FSDP)."""
        return (
            isinstance(self.conv, ConstrainedConv1d)
            and self.conv.kernel_size == (1,)
            and type(self.conv).forward is nn.Conv1d.forward
            and not has_own_hooks(self.conv)
        )

    def attention_weights(self, x: Tensor, mask: Tensor | None = None) -> Callable[[tuple[int, ...]], Tensor]:
        """Return a function: a cell of the map -> the signed weights that make what gamma multiplies there."""
        x = x.clone()  # what follows may change the input in place
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
    """Return the maxima over 2 cells an axis, 1 of an axis of one: (B, C, *map) -> (B, C, *pooled map)."""
    window, axes = [2 if n > 1 else 1 for n in x.shape[2:]], x.dim() - 2
    if axes > 3:  # the first axis by itself: torch pools three at most
        rest = _maxima(x.flatten(1, 2)).unflatten(1, x.shape[1:3])
        return F.max_pool2d(rest.flatten(3), (window[0], 1)).unflatten(3, rest.shape[3:])
    return (F.max_pool1d, F.max_pool2d, F.max_pool3d)[axes - 1](x, window)
