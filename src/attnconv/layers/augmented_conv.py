"""Attention-augmented convolution: some of the output channels come from attention over the whole map.

Source: Bello et al. 2019, arXiv:1904.09925, section 3. Departures: q, k, v sit at the centres of the convolution's
windows, so that both parts have one size for any padding, stride and dilation; maps may be smaller than the tables.
Letters: B batch, H rows, W columns, N heads, D key / E value channels a head, R half the rows of a position table.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnconv import checks, ops
from attnconv.layers import attention_input
from attnconv.layers.attention import Attention, AttentionCost, has_hooks, reset
from attnconv.layers.padding import mask_at_centres, strided
from attnconv.layers.widths import attention_widths, require_split
from attnconv.ops.arguments import require_floats

Size = int | tuple[int, ...]
Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d


class AugmentedConvNd(Attention):
    """Shared code of the three layers; ``_axes``, ``_conv`` and ``_table_names`` set the number of map axes."""

    citation = (
        "Attention-augmented convolution: Bello et al. 2019, [arXiv:1904.09925](https://arxiv.org/abs/1904.09925)."
    )
    _axes: ClassVar[int]
    _conv: ClassVar[Any]  # nn.Conv1d, nn.Conv2d or nn.Conv3d
    _table_names: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | Literal["same", "valid"] = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        key_channels: int | None = None,
        value_channels: int | None = None,
        num_heads: int = 8,
        feat_size: Size | None = None,
        position: str | None = "auto",
        qkv_kernel_size: Size = 1,
        attention_pool: int = 1,
        impl: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        axes = self._axes
        self.in_channels = checks.integer("in_channels", in_channels, at_least=1)
        self.out_channels = checks.integer("out_channels", out_channels, at_least=1)
        self.kernel_size = checks.per_axis("kernel_size", kernel_size, axes, at_least=1)
        self.stride = checks.per_axis("stride", stride, axes, at_least=1)
        self.dilation = checks.per_axis("dilation", dilation, axes, at_least=1)
        self.groups = checks.integer("groups", groups, at_least=1)
        self.padding_mode = checks.one_of("padding_mode", padding_mode, attention_input.PADDING_MODES)
        self.qkv_kernel_size = checks.per_axis("qkv_kernel_size", qkv_kernel_size, axes, at_least=1)
        self.num_heads = checks.integer("num_heads", num_heads, at_least=1)
        paper = attention_widths(self.out_channels, num_heads=self.num_heads)
        given = (("key_channels", key_channels), ("value_channels", value_channels))
        self.key_channels, self.value_channels = (
            width if value is None else checks.integer(name, value, at_least=0)
            for (name, value), width in zip(given, paper, strict=True)
        )
        self.feat_size = None if feat_size is None else checks.per_axis("feat_size", feat_size, axes, at_least=1)
        if position == "auto":
            position = None if feat_size is None else "relative"
        self.position = checks.one_of("position", position, attention_input.POSITIONS)
        checks.integer("attention_pool", attention_pool, at_least=1)
        self.attention_pool = checks.one_of("attention_pool", attention_pool, (1, 2))
        self.impl = checks.one_of("impl", impl, ops.IMPLS)
        self._require_widths()
        self._require_position()
        reach = tuple(d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True))
        self.padding = attention_input.padding_pairs(padding, self.stride, reach)
        qkv_dilation = tuple(d if k > 1 else 1 for d, k in zip(self.dilation, self.qkv_kernel_size, strict=True))
        qkv_reach = tuple(d * (k - 1) for d, k in zip(qkv_dilation, self.qkv_kernel_size, strict=True))
        self._qkv_padding = attention_input.centre_pairs(self.padding, reach, qkv_reach)
        self._centre_padding = attention_input.centre_pairs(self.padding, reach, (0,) * axes)
        self._pool_first = self.attention_pool == 2 and qkv_reach == (0,) * axes  # commutes with a 1x1, and is cheaper
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.conv_out = None
        if conv_channels := self.out_channels - self.value_channels:
            padded = padding if isinstance(padding, str) else tuple(left for left, _ in self.padding)
            geometry = (self.kernel_size, self.stride, padded, self.dilation, self.groups, bias, padding_mode)
            self.conv_out = self._conv(self.in_channels, conv_channels, *geometry, **factory)
        self.qkv_conv = self._conv(
            self.in_channels + (axes if position == "coordconv" else 0),
            2 * self.key_channels + self.value_channels,
            self.qkv_kernel_size,
            1 if self._pool_first else self.stride,
            dilation=qkv_dilation,
            bias=bias,
            **factory,
        )
        self.attn_out = self._conv(self.value_channels, self.value_channels, 1, bias=bias, **factory)
        for name, rows in zip(self._table_names, self._table_rows(), strict=True):
            table = None if rows is None else nn.Parameter(torch.empty(rows, self.head_dim, **factory))
            self.register_parameter(name, table)
        self._reset_tables()

    @classmethod
    def from_ratios(
        cls,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        *geometry: Any,
        key_ratio: float = 0.2,
        value_ratio: float = 0.1,
        num_heads: int = 8,
        min_head_dim: int = 20,
        **options: Any,
    ):
        """Make the layer with widths given as parts of ``out_channels``, by the paper's rule.

        d_k = max(floor(key_ratio*F/N)*N, min_head_dim*N) and d_v = max(floor(value_ratio*F/N)*N, N), with F the output
        channels and N the heads. All other arguments are those of the constructor.

        Args:
            key_ratio: the paper's kappa.
            value_ratio: the paper's upsilon.
            min_head_dim: fewest key channels of a head.
        """
        checks.integer("out_channels", out_channels, at_least=1)
        key_channels, value_channels = attention_widths(
            out_channels, key_ratio=key_ratio, value_ratio=value_ratio, num_heads=num_heads, min_head_dim=min_head_dim
        )
        widths = {"key_channels": key_channels, "value_channels": value_channels, "num_heads": num_heads}
        return cls(in_channels, out_channels, kernel_size, *geometry, **widths, **options)

    @classmethod
    def from_conv(
        cls,
        conv: Conv,
        map_size: tuple[int, ...],
        *,
        key_ratio: float = 0.2,
        value_ratio: float = 0.1,
        num_heads: int = 8,
        min_head_dim: int = 20,
    ) -> "AugmentedConvNd":
        """Make the layer with the geometry, bias, dtype, device and mode of a convolution.

        The layer keeps the convolution's first filters. Of a grouped convolution it keeps the first filters of each
        group, so that every filter sees the channels it was trained on.

        Args:
            conv: the convolution, which stays unchanged.
            map_size: size of its output map, which the position tables cover.
            key_ratio: as in `from_ratios`, like the next three.
        Raises:
            InputError: attention cannot take that many output channels, or would leave the groups unequal.
        """
        ratios: Any = {"key_ratio": key_ratio, "value_ratio": value_ratio}
        ratios |= {"num_heads": num_heads, "min_head_dim": min_head_dim}
        _, value_channels = attention_widths(conv.out_channels, **ratios)
        require_split(conv, value_channels, value_ratio, num_heads)
        kind = (AugmentedConv1d, AugmentedConv2d, AugmentedConv3d)[len(conv.kernel_size) - 1]
        geometry = (conv.stride, conv.padding, conv.dilation, conv.groups, conv.bias is not None, conv.padding_mode)
        layer = (kind if cls is AugmentedConvNd else cls).from_ratios(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            *geometry,
            **ratios,
            feat_size=map_size,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
        if layer.conv_out is not None:
            kept = layer.conv_out.out_channels // conv.groups  # of each group
            for name, old in conv.named_parameters(recurse=False):
                new = old.detach().unflatten(0, (conv.groups, -1))[:, :kept].flatten(0, 1)
                setattr(layer.conv_out, name, nn.Parameter(new.clone(), requires_grad=old.requires_grad))
        return layer.train(conv.training)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name not in ("weight", "bias"):
                raise
            raise AttributeError(
                f"{self._label} is not a single convolution and has no {name}; conv_out, qkv_conv and attn_out have "
                "one. Exclude the layer where convolutions are fused with batch norms"
            ) from None

    @property
    def head_dim(self) -> int:
        """Return D, the key channels per head."""
        return self.key_channels // self.num_heads

    @property
    def tables(self) -> tuple[Tensor, ...] | None:
        """Return the position tables (2R - 1, D), one per axis in the map's order; None without relative positions."""
        if self.position != "relative":
            return None
        return tuple(getattr(self, name) for name in self._table_names)

    def reset_parameters(self) -> None:
        """Re-initialise the convolutions and the position tables."""
        for conv in self.children():
            reset(conv)
        self._reset_tables()

    def _reset_tables(self) -> None:
        """Re-initialise the position tables with standard deviation D**-0.5."""
        for table in self.tables or ():
            nn.init.normal_(table, std=self.head_dim**-0.5)

    def reset_attention(self, initialise: Callable[[nn.Module], None]) -> None:
        """Re-initialise the position tables, and qkv_conv and attn_out with ``initialise``."""
        for conv in (self.qkv_conv, self.attn_out):
            reset(conv)
            initialise(conv)
        self._reset_tables()

    def without_attention(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the output ``y`` (B, out_channels, *map) with its value channels, the last ones, set to zero."""
        kept = self.out_channels - self.value_channels
        return torch.cat([y[:, :kept], torch.zeros_like(y[:, kept:])], dim=1)

    def activity(self, x: Tensor, y: Tensor) -> float:
        """Return the share, 0 to 1, of the variance of ``y`` that lies in the value channels."""
        variance = y.float().transpose(0, 1).flatten(1).var(1, correction=0)  # (F,)
        return (variance[-self.value_channels :].sum() / variance.sum().clamp_min(1e-30)).item()

    def resize_feat_size(self, feat_size: Size) -> None:
        """Resize the position tables by linear interpolation to cover an output map of ``feat_size`` (rows, columns).

        The tables become new parameters, so build the optimiser afterwards.
        """
        if self.position != "relative":
            raise checks.InputError(f"resize_feat_size needs position='relative', this layer has {self.position!r}")
        self.feat_size = checks.per_axis("feat_size", feat_size, self._axes, at_least=1)
        for name, rows in zip(self._table_names, self._table_rows(), strict=True):
            old = getattr(self, name)
            new = attention_input.resized_table(old.detach(), rows)
            setattr(self, name, nn.Parameter(new, requires_grad=old.requires_grad))

    @property
    def largest_map(self) -> tuple[int, ...] | None:
        """Return ``feat_size``; None without position tables."""
        return self.feat_size if self.position == "relative" else None

    @contextmanager
    def tables_ignored(self) -> Iterator[None]:
        """Ignore the position tables inside the ``with`` block."""
        position, self.position = self.position, None
        try:
            yield
        finally:
            self.position = position

    def attention_map_size(self, x: Tensor) -> tuple[int, ...]:
        """Return the size of the map that attention runs on: the output map, halved if pooled."""
        return self._pooled(self.output_size(x))

    def attention_weights(self, x: Tensor, mask: Tensor | None = None) -> Callable[[tuple[int, ...]], Tensor]:
        """Return a function from a cell of the attended map to its weights in each head, which sum to 1."""
        mask = self.input_mask(x, mask)
        (q, k, _), tables = self.queries_keys_values(x, mask), self.tables
        keys = self._centres(mask, self.attention_pool)
        return lambda query: ops.attention_weights(q, k, tables, query=query, mask=keys)[0]

    def attention_cost(self, map_size: tuple[int, ...]) -> AttentionCost:
        """Return the cost of attention on a map of ``map_size``, position tables included."""
        return AttentionCost.of_all_pairs(
            map_size,
            num_heads=self.num_heads,
            key_channels=self.key_channels,
            value_channels=self.value_channels,
            tables=self.position == "relative",
        )

    def no_weight_decay(self) -> set[str]:
        """Return the names of the position tables."""
        return set(self._table_names)

    def short_repr(self) -> str:
        """Return the class, the widths and the number of heads."""
        widths = f"d_k {self.key_channels}, d_v {self.value_channels}, {self.num_heads} heads"
        return f"{type(self).__name__}({widths})"

    def _pooled(self, map_size: tuple[int, ...]) -> tuple[int, ...]:
        """Return the size of the attended map for an output map of ``map_size``: half, rounded up, if pooled."""
        return tuple(-(-n // self.attention_pool) for n in map_size)

    def output_size(self, x: Tensor) -> tuple[int, ...]:
        """Return the size of the output map for ``x``; raise InputError if the layer does not accept ``x``."""
        name, axes = self._label, self._axes
        require_floats(f"the input of {name}", x)
        if x.dim() != axes + 2 or x.shape[1] != self.in_channels:
            expected = ", ".join(["B", str(self.in_channels), *("D", "H", "W")[-axes:]])
            hint = "; add the batch axis with x.unsqueeze(0)" if x.dim() == axes + 1 else ""
            raise checks.InputError(f"{name} takes ({expected}), got {tuple(x.shape)}{hint}")
        window = tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True))
        map_size = tuple(
            (n + left + right - w) // s + 1
            for n, (left, right), w, s in zip(x.shape[2:], self.padding, window, self.stride, strict=True)
        )
        if min(map_size) < 1:
            raise checks.InputError(f"{name}: a map of {tuple(x.shape[2:])} is smaller than the window {window}")
        if self.position == "relative" and any(n > r for n, r in zip(map_size, self.feat_size or (), strict=True)):
            raise checks.InputError(
                f"{name}: the output map is {map_size}, but the position tables cover feat_size={self.feat_size}; "
                + self._resize_call(map_size)
            )
        return map_size

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        map_size, mask = self.output_size(x), self.input_mask(x, mask)
        if self._one_convolution():
            convolved, projected = self._convolve_and_project(x)
            q, k, v = self._heads(projected, mask)
        else:
            convolved = None if self.conv_out is None else self.conv_out(x)
            q, k, v = self.queries_keys_values(x, mask)
        keys = self._centres(mask, self.attention_pool)
        y = self.attend(ops.relative_attention, q, k, v, self.tables, mask=keys, impl=self.impl)  # (B, N, H, W, E)
        y = self.attn_out(attention_input.laid_out_as(x, self._merge_heads(y)))  # (B, N*E, H, W)
        if self.attention_pool == 2:
            y = F.interpolate(y, size=map_size, mode=("linear", "bilinear", "trilinear")[self._axes - 1])
        return y if convolved is None else torch.cat([convolved, y], dim=1)

    def queries_keys_values(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k (B, N, H, W, D) and v (B, N, H, W, E) on the attended map for x (B, in_channels, H_in, W_in).

        ``mask`` (B, H_in, W_in) is True at cells of the image and False in the padding.
        """
        x = attention_input.at_centres(x, self._qkv_padding, self.padding_mode)
        if self._pool_first:
            x = attention_input.halve(strided(self.stride, x), self._centres(mask))
        if self.position == "sine":
            x = x + attention_input.sine(x.shape[1], x.shape[2:], x)
        elif self.position == "coordconv":
            stride = [2 * s for s in self.stride] if self._pool_first else ()  # of the map that qkv_conv reads
            features = attention_input.coordinates(x, mask_at_centres(mask, self._qkv_padding, stride))
            x = torch.cat([x, features], dim=1)
        return self._heads(self.qkv_conv(x), mask)

    def _centres(self, mask: Tensor | None, pool: int = 1) -> Tensor | None:
        """Return the mask (B, H, W) of the output map, or of every ``pool``-th cell of it, from (B, H_in, W_in)."""
        return mask_at_centres(mask, self._centre_padding, [s * pool for s in self.stride])

    def _one_convolution(self) -> bool:
        """True if conv_out and qkv_conv read the same windows of the same map and neither has hooks."""
        convs = [c for c in (self.conv_out, self.qkv_conv) if c is not None and type(c) is self._conv]
        return (
            len({c.bias is None for c in convs}) == 1 < len(convs)
            and (self.qkv_kernel_size, self.groups, self._pool_first) == (self.kernel_size, 1, False)
            and self.position not in ("sine", "coordconv")
            and not any(map(has_hooks, convs))
        )

    def _convolve_and_project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return conv_out(x) and qkv_conv(x), computed by a single convolution."""
        first, second = self.conv_out or self.qkv_conv, self.qkv_conv
        bias = None if first.bias is None or second.bias is None else torch.cat([first.bias, second.bias])
        both = first._conv_forward(x, torch.cat([first.weight, second.weight]), bias)
        return both[:, : first.out_channels], both[:, first.out_channels :]

    def _heads(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k (B, N, H, W, D) and v (B, N, H, W, E) from the output of qkv_conv and the input's mask."""
        if self.attention_pool == 2 and not self._pool_first:
            x = attention_input.halve(x, self._centres(mask))
        widths = [self.key_channels, self.key_channels, self.value_channels]
        # Not unflatten: the older ONNX exporter would make all later sizes constants.
        shapes = [(x.shape[0], self.num_heads, width // self.num_heads, *x.shape[2:]) for width in widths]
        q, k, v = (t.reshape(s).movedim(2, -1) for t, s in zip(x.split(widths, dim=1), shapes, strict=True))
        return q, k, v

    def extra_repr(self) -> str:
        text = (
            f"{self.in_channels}, {self.out_channels}, key_channels={self.key_channels}, "
            f"value_channels={self.value_channels}, num_heads={self.num_heads}, position={self.position!r}"
        )
        text += "" if self.feat_size is None else f", feat_size={self.feat_size}"
        return text + (", attention_pool=2" if self.attention_pool == 2 else "")

    def _merge_heads(self, y: Tensor) -> Tensor:
        """(B, N, H, W, E) -> (B, N*E, H, W)."""
        return y.movedim(y.dim() - 1, 2).flatten(1, 2)  # not -1: the older ONNX exporter writes it literally

    def _require_widths(self) -> None:
        heads, out_channels = self.num_heads, self.out_channels
        if self.value_channels == 0:
            raise checks.InputError(
                f"{type(self).__name__} without attention is a plain convolution: value_channels must be at least "
                f"num_heads={heads}, that is a value_ratio of at least {heads / out_channels:.4g}; got 0"
            )
        if self.key_channels == 0:
            raise checks.InputError(f"key_channels must be at least num_heads={heads}, got 0")
        for what, width in (("key_channels", self.key_channels), ("value_channels", self.value_channels)):
            if width % heads:
                raise checks.InputError(f"{what} must be a multiple of num_heads={heads}, got {width}")
        conv_channels = out_channels - self.value_channels
        if conv_channels < 0:
            remedy = f"pass num_heads={out_channels} or fewer" if heads > out_channels else f"the least is {heads}"
            raise checks.InputError(
                f"value_channels must be at most out_channels={out_channels}, got {self.value_channels} for "
                f"num_heads={heads}; {remedy}"
            )
        for what, width in (("in_channels", self.in_channels), ("out_channels - value_channels", conv_channels)):
            if conv_channels and width % self.groups:
                raise checks.InputError(f"{what} must be a multiple of groups={self.groups}, got {width}")

    def _require_position(self) -> None:
        if self.position == "relative" and self.feat_size is None:
            raise checks.InputError(
                "position='relative' needs feat_size, the rows and columns of the largest output map; "
                "without it choose position='sine', 'coordconv' or None"
            )
        if self.position == "sine" and self.in_channels < 2 * self._axes:
            raise checks.InputError(
                f"position='sine' needs at least {2 * self._axes} in_channels, two per axis; got {self.in_channels}"
            )

    def _table_rows(self) -> tuple[int | None, ...]:
        if self.position != "relative" or self.feat_size is None:
            return (None,) * self._axes
        return tuple(2 * n - 1 for n in self._pooled(self.feat_size))


class AugmentedConv1d(AugmentedConvNd):
    """Concatenate a 1-D convolution and relative self-attention over the whole sequence; see `AugmentedConv2d`.

    Shapes: (B, in_channels, W_in) -> (B, out_channels, W). The position table is key_rel_w.
    """

    _axes, _conv, _table_names = 1, nn.Conv1d, ("key_rel_w",)


class AugmentedConv2d(AugmentedConvNd):
    """Concatenate a convolution and 2-D relative self-attention over the whole map.

    Shapes: (B, in_channels, H_in, W_in) -> (B, out_channels, H, W), H and W as nn.Conv2d gives them; the last
    ``value_channels`` channels are attention.
    Memory: linear in H * W, except with impl "eager", where it is quadratic; "auto" takes that on small maps and under
    torch.func.

    ``AugmentedConv2d(64, 128, 3, padding=1)`` has the paper's widths and no positions; add ``feat_size`` for relative
    positions. The parameters are ``conv_out`` (absent if value_channels == out_channels), ``qkv_conv`` (outputs in the
    order q, k, v), ``attn_out``, and the position tables ``key_rel_h`` and ``key_rel_w``.

    The arguments up to ``padding_mode`` are those of nn.Conv2d. ``groups`` applies to conv_out only, ``bias`` to all
    three convolutions. Where the padding is wider than half the window, its ring counts as positions: q, k, v see there
    what ``padding_mode`` gives.

    Args:
        key_channels: channels of the queries and of the keys in all heads, the paper's d_k; if None, the paper's
            max(floor(0.2*F/N)*N, 20*N) of F output channels and N heads. `from_ratios` takes other ratios.
        value_channels: channels of the values in all heads, the paper's d_v; if None, max(floor(0.1*F/N)*N, N).
        num_heads: number of heads, which divides both widths.
        feat_size: rows and columns of the largest output map, in cells (not image pixels), which the position tables
            cover. Smaller maps of any shape are exact.
        position: "relative", which needs feat_size; "sine", waves added to the input of ``qkv_conv``; "coordconv",
            coordinates concatenated to that input; None, no positions; or "auto", which is "relative" with feat_size
            and None without. The input of ``qkv_conv`` is the map at the window centres, before the stride; with
            attention_pool=2 and a qkv_kernel_size of 1 it is the pooled map.
        qkv_kernel_size: kernel of the projection to q, k, v.
        attention_pool: 2 halves the map for attention: 3x3 average pooling of stride 2 before, bilinear upsampling
            after.
        impl: the kernel; see `attnconv.ops.relative_attention`.
    Raises:
        ValueError: in the constructor if arguments do not fit each other; in forward if ``x`` has no batch axis or
            other channels, or if its output map is larger than ``feat_size``.
    """

    _axes, _conv, _table_names = 2, nn.Conv2d, ("key_rel_h", "key_rel_w")


class AugmentedConv3d(AugmentedConvNd):
    """Concatenate a 3-D convolution and relative self-attention over the whole volume; see `AugmentedConv2d`.

    Shapes: (B, in_channels, D_in, H_in, W_in) -> (B, out_channels, D, H, W). The position tables are key_rel_d,
    key_rel_h and key_rel_w.
    """

    _axes, _conv, _table_names = 3, nn.Conv3d, ("key_rel_d", "key_rel_h", "key_rel_w")
