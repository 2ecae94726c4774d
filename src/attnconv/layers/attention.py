"""Base classes of all attention layers: the interface that the rest of the library uses.

With `set_recompute`, attention keeps only its inputs for the backward pass. The backward pass then calls the op again,
never the module: a second forward of a module under spectral norm would advance its power iteration and change the
gradients.

Letters: B batch, C channels.
"""

import contextlib
import fnmatch
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules import module as torch_module
from torch.utils.checkpoint import checkpoint

from attnconv import checks
from attnconv.layers import padding
from attnconv.ops.arguments import require_floats

NORMS = (nn.LayerNorm, nn.RMSNorm)  # their weights may have several axes; those of other norms have one
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
FLOAT32_BYTES = 4


def _leaf_of_fx(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make torch.fx record a call of the layer as one node, as it does for torch's own modules."""

    @functools.wraps(forward)
    def noted(self: nn.Module, *inputs: Any, **options: Any) -> Any:
        for value in (*inputs, *options.values()):
            if isinstance(value, Proxy):
                if not (path := value.tracer.path_of_module(self)):  # pyright: ignore[reportAttributeAccessIssue]
                    name = type(self).__name__
                    raise checks.InputError(f"torch.fx records {name} as one node: trace a network that contains it")
                return value.tracer.create_proxy("call_module", path, inputs, options)
        return forward(self, *inputs, **options)

    return noted


@dataclass(frozen=True, kw_only=True)
class AttentionCost:
    """The cost of one attention layer for one image."""

    name: str = ""  # of the layer in its network
    map_size: tuple[int, ...]
    num_heads: int
    product_macs: int  # q k^T and the weights times v
    position_macs: int  # q times the tables
    eager_bytes: int  # the logits of all pairs of positions, float32
    linear_bytes: int  # q, k, v, the output and one log-sum-exp per query, float32

    @classmethod
    def of_all_pairs(
        cls,
        map_size: tuple[int, ...],
        *,
        num_heads: int,
        key_channels: int,
        value_channels: int,
        tables: bool = False,
        key_map: tuple[int, ...] | None = None,
    ) -> "AttentionCost":
        """Return the cost of attention from every position to every other.

        Args:
            map_size: size of the attended map.
            num_heads: number of heads.
            key_channels: channels of the queries and of the keys in all heads.
            value_channels: channels of the values in all heads.
            tables: True if there is a position table per axis.
            key_map: size of the map of keys and values; ``map_size`` if None.
        """
        positions, keys = math.prod(map_size), math.prod(map_size if key_map is None else key_map)
        return cls(
            map_size=map_size,
            num_heads=num_heads,
            product_macs=positions * keys * (key_channels + value_channels),
            position_macs=positions * sum(map_size) * key_channels if tables else 0,
            eager_bytes=FLOAT32_BYTES * num_heads * positions * keys,
            linear_bytes=FLOAT32_BYTES * ((positions + keys) * (key_channels + value_channels) + positions * num_heads),
        )


class Attention(nn.Module):
    """Base of every attention layer: a module (B, C, *map) -> (B, C', *map') with what the library asks of it.

    The constructor of a layer that follows a module takes the channels and keyword options; the layer keeps the shape.
    A layer that replaces a convolution also has a class method ``from_conv(conv, map_size, **options)``, the
    convolution's ``in_channels`` and ``kernel_size`` as attributes, and the rest of the convolution as ``conv_out``.
    A subclass may override every method below except `attend`.

    Attributes:
        recompute: see `set_recompute`.
        signed: True if the attention weights may be negative and do not sum to 1.
        citation: the source, one sentence of Markdown for model cards.
        activity_name: name of the number that ``activity`` returns: "gamma", or "attention_share" from 0 to 1.
    """

    _path: str = ""  # dotted name in the network, set by surgery and `create_model`
    _pixels_per_cell: tuple[tuple[int, int], ...] | None = None  # stride of its map, a fraction per axis, where known
    recompute = False
    signed: ClassVar[bool] = False
    citation: str = ""
    activity_name: ClassVar[str] = "attention_share"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "forward" in vars(cls):
            cls.forward = _leaf_of_fx(cls.forward)

    @property
    def has_map(self) -> bool:
        """True if the layer has `attention_weights`."""
        return type(self).attention_weights is not Attention.attention_weights

    @property
    def _label(self) -> str:
        """Return the layer's name in its network and its class, for messages."""
        return f"{self._path} ({type(self).__name__})" if self._path else type(self).__name__

    def input_mask(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        """Return the cells of ``x`` that belong to images, bool (B, *map); None if all do.

        They come from ``mask`` or, if that is None, from `attnconv.valid_sizes`.
        """
        return padding.input_mask(x, mask, self._label)

    def attention_map_size(self, x: Tensor) -> tuple[int, ...]:
        """Return the size of the attended map for ``x``; by default that of ``x``."""
        return tuple(x.shape[2:])

    def attention_weights(self, x: Tensor) -> Callable[[tuple[int, ...]], Tensor] | None:
        """Return, for x (1, C, *map), a function from a cell of the attended map to its weights (heads, *key map).

        The key map may be smaller than the attended map. By default None: the layer has no weights to explain.
        """
        return None

    def attention_cost(self, map_size: tuple[int, ...]) -> AttentionCost | None:
        """Return the cost of attention on a map of ``map_size``; by default None, and the layer is not listed."""
        return None

    def no_weight_decay(self) -> set[str]:
        """Return names of parameters without weight decay, besides norms and parameters of one axis."""
        return set()

    def without_attention(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the output as if attention contributed nothing, for the input ``x`` and the output ``y``.

        By default a copy of ``x``, since later modules may change it in place.
        """
        if x.shape != y.shape:
            raise NotImplementedError(f"{type(self).__name__} must define without_attention")
        return x.clone()

    def activity(self, x: Tensor, y: Tensor) -> float:
        """Return how much attention contributes to the output ``y`` for the input ``x``.

        By default its share, 0 to 1, of the sum of squares.
        """
        without = self.without_attention(x, y).float()
        added = (y.float() - without).square().sum()
        return (added / (added + without.square().sum()).clamp_min(1e-30)).item()

    def reset_attention(self, initialise: Callable[[nn.Module], None]) -> None:
        """Re-initialise what the layer adds to a plain network, its convolutions with ``initialise``.

        By default this calls ``reset_parameters`` of every module that has it, the layer's own last.
        """
        for module in reversed(list(self.modules())):
            reset(module)
            if module is not self:
                initialise(module)

    @property
    def largest_map(self) -> tuple[int, ...] | None:
        """Return the size of the largest output map that the position tables cover; None without tables."""
        return None

    def resize_feat_size(self, feat_size: int | tuple[int, ...]) -> None:
        """Resize the position tables to cover an output map of ``feat_size``."""
        raise checks.InputError(f"{type(self).__name__} has no position tables")

    def _resize_call(self, map_size: tuple[int, ...]) -> str:
        """Return the calls that make the tables cover an output map, of this layer and of its whole network."""
        cells = tuple(map(max, map_size, self.largest_map or map_size))  # the maps of before stay covered
        call = f"call layer.resize_feat_size({cells})"
        if not self._path:
            return call
        size: Any = "image_size"
        if self._pixels_per_cell is not None and self.largest_map is not None:
            size = tuple(-(-n * step // parts) for n, (step, parts) in zip(cells, self._pixels_per_cell, strict=True))
        return f"{call} or, for the whole model, attnconv.surgery.resize_feat_size(model, {size})"

    @contextlib.contextmanager
    def tables_ignored(self) -> Iterator[None]:
        """Ignore the position tables inside the ``with`` block, so that maps of any size pass."""
        yield

    def short_repr(self) -> str:
        """Return a short description for lists of changes."""
        return f"{type(self).__name__}({self.extra_repr()})"

    def attend(self, op: Callable[..., Tensor], *inputs: Any, **options: Any) -> Tensor:
        """Return ``op(*inputs, **options)``; with ``recompute`` the backward pass calls the op again."""
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return op(*inputs, **options)
        # The ops draw no random numbers, so the state of the generators need not be kept.
        output = checkpoint(op, *inputs, use_reentrant=False, preserve_rng_state=False, **options)
        assert isinstance(output, Tensor)
        return output


class GatedAttention(Attention):
    """A layer x + gamma * attention(x) whose children are all made by `constrained_conv`."""

    activity_name = "gamma"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = checks.integer("channels", channels, at_least=1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def _require_map(self, x: Tensor) -> None:
        """Raise unless ``x`` is (B, C, *map)."""
        require_floats(f"the input of {self._label}", x)
        if x.dim() < 3 or x.shape[1] != self.channels:
            raise checks.InputError(
                f"{self._label} takes (B, {self.channels}, *map), with a batch axis; got {tuple(x.shape)}"
            )

    def reset_parameters(self) -> None:
        """Re-initialise the weights and their spectral norm, and set gamma to 0."""
        self.reset_attention(lambda _: None)

    def reset_attention(self, initialise: Callable[[nn.Module], None]) -> None:
        """Re-initialise the weights with ``initialise``, before any constraint, and set gamma to 0."""
        for conv in self.children():
            for module in reversed(list(conv.modules())):
                reset(module)
                initialise(module)
        nn.init.zeros_(self.gamma)

    def activity(self, x: Tensor, y: Tensor) -> float:
        """Return gamma."""
        return self.gamma.item()

    def short_repr(self) -> str:
        """Return the class and the channels."""
        return f"{type(self).__name__}({self.channels})"


def reset(module: nn.Module) -> None:
    """Call ``module.reset_parameters`` if there is one."""
    if callable(method := getattr(module, "reset_parameters", None)):
        method()


def set_recompute(model: nn.Module, recompute: bool = True) -> int:
    """Make every attention layer in ``model`` recompute attention in the backward pass; return the number of layers.

    This saves memory with impl "eager", which otherwise keeps the logits of all pairs of positions.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, Attention)]
    for layer in layers:
        layer.recompute = recompute
    return len(layers)


def no_weight_decay(model: nn.Module) -> set[str]:
    """Return the names of the parameters without weight decay: norms, biases, gammas, position tables.

    These parameters have at most one axis, belong to a norm, or are named by an attention layer or by ``model`` itself,
    as in timm's networks. Weights under spectral norm decay as they are before the division.
    """
    listed: Any = ()  # names or shell patterns that the model lists
    own: Any = getattr(model, "no_weight_decay", None)
    if own is not None and model not in _asked:
        _asked.add(model)  # the model's method may be this function
        try:
            listed = own()
        finally:
            _asked.discard(model)
    spared: set[nn.Parameter] = set()
    for module in model.modules():
        if isinstance(module, NORMS):
            spared.update(module.parameters())
        elif isinstance(module, Attention):
            named = module.no_weight_decay()
            spared.update(parameter for name, parameter in module.named_parameters() if name in named)
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim <= 1 or parameter in spared or any(fnmatch.fnmatch(name, pattern) for pattern in listed)
    }


_asked: set[nn.Module] = set()  # models whose own list is being computed


def has_own_hooks(module: nn.Module) -> bool:
    """True if ``module`` has hooks or a replaced forward, so that skipping forward() would be observable."""
    return any(getattr(module, name) for name in HOOKS) or "forward" in vars(module)


def has_hooks(module: nn.Module) -> bool:
    """True if skipping forward() would be observable, also by global hooks such as those of FLOP counters."""
    return has_own_hooks(module) or any(getattr(torch_module, f"_global{name}") for name in HOOKS)
