"""Self-attention with a residual and a gate that starts closed: SAGAN's, and SimpleSelfAttention.

Sources: Zhang et al. 2018, arXiv:1805.08318, section 3, with the names and shapes that fastai gave it;
SimpleSelfAttention (2019). Departures from the latter: ``symmetric`` is truly symmetric, S can be divided by the number
of positions, and the products run in the cheapest order.
Letters: B batch, C channels, L positions of the map, D key channels.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from attnconv import checks, ops
from attnconv.layers.attention import AttentionCost, GatedAttention, has_own_hooks
from attnconv.layers.spectral_norm import ConstrainedConv1d, constrained_conv, refuse_vmap_in_training
from attnconv.ops.bilinear_attention import fastest_order, shares
from attnconv.ops.kernel_choice import autocast_off

SAGAN = "Zhang et al. 2018, [arXiv:1805.08318](https://arxiv.org/abs/1805.08318)"


class SelfAttention(GatedAttention):
    """SAGAN's layer, of one head.

    y = gamma * o + x, where o_j = sum_i softmax_i(f_i . g_j) h_i with f, g, h = query(x), key(x), value(x).

    Shapes: (B, C, *map) -> the same, any number of map axes. gamma starts at 0, where the output is x.
    Memory: linear in the number of positions; its square on small maps, under torch.func and in forward mode.

    Args:
        channels: C.
        key_ratio: width of queries and keys as a part of C; at least one channel.
        spectral_norm: divide each weight by its largest singular value, as published.
    Raises:
        ValueError: here, for a ratio that is not above 0 and at most 1; in forward, for an input without batch axis or
            of other channels.
    """

    citation = f"SAGAN's self-attention: {SAGAN}."

    def __init__(self, channels: int, *, key_ratio: float = 1 / 8, spectral_norm: bool = True) -> None:
        super().__init__(channels)
        if not 0 < checks.number("key_ratio", key_ratio) <= 1:
            raise checks.InputError(f"key_ratio must be above 0 and at most 1, got {key_ratio}")
        key_channels = max(1, int(channels * key_ratio))
        self.query = constrained_conv(channels, key_channels, spectral_norm=spectral_norm)
        self.key = constrained_conv(channels, key_channels, spectral_norm=spectral_norm)
        self.value = constrained_conv(channels, channels, spectral_norm=spectral_norm)

    @refuse_vmap_in_training
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        self._require_map(x)
        flat, keys = x.flatten(2), self._key_mask(x, mask)  # (B, C, L), (B, L)
        # The softmax runs over the positions of query(x), so those are what the op calls keys.
        k, q, v = (
            conv(flat).transpose(1, 2)[:, None] for conv in (self.query, self.key, self.value)
        )  # (B, 1, L, D or C)
        o = self.attend(ops.relative_attention, q, k, v, None, mask=keys, scale=1.0)  # (B, 1, L, C)
        o = o[:, 0].transpose(1, 2).unflatten(2, x.shape[2:])  # (B, C, *map)
        return (x + _gated(self.gamma, o)).to(x.dtype)  # x first: the sum takes its memory format

    def _key_mask(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        return None if (mask := self.input_mask(x, mask)) is None else mask.flatten(1)

    def attention_weights(self, x: Tensor, mask: Tensor | None = None) -> Callable[[tuple[int, ...]], Tensor]:
        """Return a function: a cell of the map -> its shares, which sum to 1, of one head."""
        # What the op calls queries is key(x): see forward.
        q, k = (conv(x.flatten(2)).unflatten(2, x.shape[2:]).movedim(1, -1)[:, None] for conv in (self.key, self.query))
        mask = self.input_mask(x, mask)
        return lambda query: ops.attention_weights(q, k, None, query=query, mask=mask, scale=1.0)[0]

    def attention_cost(self, map_size: tuple[int, ...]) -> AttentionCost:
        """Return the cost on a map of that size, of one head."""
        keys = self.query.out_channels
        return AttentionCost.of_all_pairs(map_size, num_heads=1, key_channels=keys, value_channels=self.channels)

    def extra_repr(self) -> str:
        return f"{self.channels}"


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
            return self.attend(bilinear_of, x, h, self.gamma, **options)
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
            share = shares(mask, h.dtype, normalize=self.normalize)
            summed = x if share is None else x * share.unflatten(2, x.shape[2:])
            positions = math.prod(x.shape[2:]) if self.normalize else 1
            return lambda query: torch.einsum("bc,bc...->b...", h[(..., *query)], summed) / positions
        weight = self.conv.weight
        return lambda query: ops.bilinear_weights(x, weight, query=query, mask=mask, normalize=self.normalize)

    def extra_repr(self) -> str:
        return f"{self.channels}, symmetric={self.symmetric}, normalize={self.normalize}"


def _gated(gamma: Tensor, o: Tensor) -> Tensor:
    """Return gamma times ``o``, and 0 where gamma is 0, even if ``o`` passed the largest number."""
    gated = gamma * o
    gated.detach().masked_fill_(gamma.detach() == 0, 0)  # in the values alone: gamma has a slope where it is 0, too
    return gated


def bilinear_of(x: Tensor, h: Tensor, gamma: Tensor, *, mask: Tensor | None = None, normalize: bool = False) -> Tensor:
    """Return x + gamma * x S with S = x^T h, for an h = W x that is there: x (B, C, *map), h (B, C, L) -> like x.

    Only two of the three orders exist: W cannot be taken out of its product with x.
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    with autocast_off(x):
        flat, h = x.flatten(2).to(exact), h.to(exact)
        if normalize:
            h = h / flat.shape[2]
        share = shares(mask, exact, normalize=normalize)
        lines, summed = flat.transpose(1, 2), flat if share is None else flat * share
        few = fastest_order(*flat.shape[1:]) == "scores"
        mixed = summed @ (lines @ h) if few else (summed @ lines) @ h
        return (flat + _gated(gamma.to(exact), mixed)).unflatten(2, x.shape[2:]).to(x.dtype)
