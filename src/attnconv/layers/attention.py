"""The base of all attention layers: what the rest of the library may ask of any of them.

Attention can keep nothing for the backward pass but its inputs, and be computed again there. Only the call of the op is
computed again, never the module: a second forward of a module under spectral norm would advance its power iteration,
and give other gradients.

Letters: B batch, C channels, K classes, H rows, W columns.
"""

import contextlib
import fnmatch
import functools
import math
from collections.abc import Callable, Collection, Iterator
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

NORMS = (nn.LayerNorm, nn.RMSNorm)  # whose weights may have several axes; all others' have one
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


FLOAT32_BYTES = 4


def _leaf_of_fx(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let torch.fx note a call of the layer as one node, as it does of torch's own modules, whoever traces."""

    @functools.wraps(forward)
    def noted(self: nn.Module, *inputs: Any, **options: Any) -> Any:
        for value in (*inputs, *options.values()):
            if isinstance(value, Proxy):
                if not (path := value.tracer.path_of_module(self)):  # pyright: ignore[reportAttributeAccessIssue]
                    name = type(self).__name__
                    raise checks.InputError(f"torch.fx takes {name} as one node: trace a network that holds it")
                return value.tracer.create_proxy("call_module", path, inputs, options)
        return forward(self, *inputs, **options)

    return noted


@dataclass(frozen=True, kw_only=True)
class AttentionCost:
    """The cost of one attention layer for one image."""

    name: str = ""  # of the layer in a network
    map_size: tuple[int, ...]
    num_heads: int
    product_macs: int  # q k^T and the weights times v
    position_macs: int  # q times the tables
    eager_bytes: int  # the logits of all pairs of positions, float32
    linear_bytes: int  # q, k, v, the output and one log-sum-exp a query, float32

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
        """Return the cost of attention of every position to every other.

        Args:
            map_size: of the map attended on.
            num_heads: heads.
            key_channels: of the queries and of the keys, all heads together.
            value_channels: of the values, all heads together.
            tables: there are position tables, one an axis.
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
    """The base of every attention layer: a module (B, C, *map) -> (B, C', *map'), and what the library asks of it.

    A layer behind a module of a network is made from its channels alone and keeps the shape; its own options are
    keyword arguments. One that takes the place of a convolution also has a class method
    ``from_conv(conv, map_size, **options)``, attributes ``in_channels`` and ``kernel_size`` as the convolution's, and
    keeps what it has left of the convolution as ``conv_out``. All methods below but `attend` may be replaced.

    Attributes:
        recompute: see `set_recompute`.
        signed: the attention weights may be negative, and do not sum to 1.
        citation: its source, a sentence of Markdown for model cards.
        activity_name: name of the number that ``activity`` returns; "gamma", or "attention_share" of 0 to 1.
    """

    _path: str = ""  # its dotted name in the network that surgery or `create_model` put it into
    _pixels_per_cell: tuple[tuple[int, int], ...] | None = None  # of its map there, fractions an axis; None: not known
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
        """True if `attention_weights` tells what a position attends to."""
        return type(self).attention_weights is not Attention.attention_weights

    @property
    def _label(self) -> str:
        """Return the class, behind the layer's name in its network: for messages."""
        return f"{self._path} ({type(self).__name__})" if self._path else type(self).__name__

    def input_mask(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        """Return the cells of the input ``x`` that hold image, bool (B, *map); None if all do.

        They are those of ``mask`` or, where that is None, of `attnconv.valid_sizes`.
        """
        return padding.input_mask(x, mask, self._label)

    def attention_map_size(self, x: Tensor) -> tuple[int, ...]:
        """Return the size of the map attended on for the input ``x``; the input's own if not replaced."""
        return tuple(x.shape[2:])

    def attention_weights(self, x: Tensor) -> Callable[[tuple[int, ...]], Tensor] | None:
        """Return, for an input (1, C, *map), a function: a cell of the map attended on -> its weights (heads, *map).

        Keys may have a map of their own, smaller than it. None, if the layer has no such weights: it is then not
        explained.
        """
        return None

    def attention_cost(self, map_size: tuple[int, ...]) -> AttentionCost | None:
        """Return the cost of attention on a map of that size; None if it needs no row among those of attention."""
        return None

    def no_weight_decay(self) -> set[str]:
        """Return names of own parameters that should not decay, beside those of one axis and those of norms."""
        return set()

    def without_attention(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the output for ``x``, which is ``y``, as it would be if attention brought nothing to it.

        A copy of ``x`` if not replaced; what follows may change it in place.
        """
        if x.shape != y.shape:
            raise NotImplementedError(f"{type(self).__name__} has to define without_attention")
        return x.clone()

    def activity(self, x: Tensor, y: Tensor) -> float:
        """Return how much attention brings to the output ``y`` for ``x``.

        Its share, 0 to 1, of the sum of squares if not replaced.
        """
        without = self.without_attention(x, y).float()
        brought = (y.float() - without).square().sum()
        return (brought / (brought + without.square().sum()).clamp_min(1e-30)).item()

    def reset_attention(self, initialise: Callable[[nn.Module], None]) -> None:
        """Draw anew what the layer adds to a plain network, each of its convolutions as ``initialise`` draws it.

        If not replaced: every module in it by ``reset_parameters``, where it has that, the layer itself as the last.
        """
        for module in reversed(list(self.modules())):
            reset(module)
            if module is not self:
                initialise(module)

    @property
    def largest_map(self) -> tuple[int, ...] | None:
        """Return the largest output map that position tables cover; None without tables."""
        return None

    def resize_feat_size(self, feat_size: int | tuple[int, ...]) -> None:
        """Fit the position tables to an output map of that size."""
        raise checks.InputError(f"{type(self).__name__} has no position tables")

    def _resize_call(self, map_size: tuple[int, ...]) -> str:
        """Return the call that fits the tables to that output map, in a network also that for all of its layers."""
        call = f"call layer.resize_feat_size({map_size})"
        if not self._path:
            return call
        size: Any = "image_size"
        if self._pixels_per_cell is not None and self.largest_map is not None:
            cells = map(max, map_size, self.largest_map)
            size = tuple(-(-n * step // parts) for n, (step, parts) in zip(cells, self._pixels_per_cell, strict=True))
        return f"{call} or, for the whole model, attnconv.surgery.resize_feat_size(model, {size})"

    @contextlib.contextmanager
    def tables_ignored(self) -> Iterator[None]:
        """Run in the block without position tables, and so on maps of any size."""
        yield

    def short_repr(self) -> str:
        """Return the layer in a few words, for lists of changes."""
        return f"{type(self).__name__}({self.extra_repr()})"

    def attend(self, op: Callable[..., Tensor], *inputs: Any, **options: Any) -> Tensor:
        """Return ``op(*inputs, **options)``, computed again in the backward pass where that was asked for."""
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return op(*inputs, **options)
        # The ops draw no random numbers, so the generators need not be put back.
        output = checkpoint(op, *inputs, use_reentrant=False, preserve_rng_state=False, **options)
        assert isinstance(output, Tensor)
        return output


class GatedAttention(Attention):
    """A layer whose output is its input and gamma times attention; its submodules are all `constrained_conv`."""

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
                f"{self._label} takes (B, {self.channels}, *map), a batch axis included; got {tuple(x.shape)}"
            )

    def reset_parameters(self) -> None:
        """Draw the weights anew, and the vectors of their spectral norm; gamma is 0 again."""
        self.reset_attention(lambda _: None)

    def reset_attention(self, initialise: Callable[[nn.Module], None]) -> None:
        """Draw the weights anew, as ``initialise`` draws a convolution, before any constraint; gamma is 0 again."""
        for conv in self.children():
            for module in reversed(list(conv.modules())):
                reset(module)
                initialise(module)
        nn.init.zeros_(self.gamma)

    def activity(self, x: Tensor, y: Tensor) -> float:
        """Return gamma."""
        return self.gamma.item()

    def short_repr(self) -> str:
        """Return class and channels."""
        return f"{type(self).__name__}({self.channels})"


def reset(module: nn.Module) -> None:
    """Draw the parameters of ``module`` anew, where it has a method for that."""
    if callable(method := getattr(module, "reset_parameters", None)):
        method()


def set_recompute(model: nn.Module, recompute: bool = True) -> int:
    """Tell every attention layer in ``model`` whether to compute attention again; return how many layers there are.

    Memory: impl "eager" keeps the logits of all pairs of positions otherwise; "blocked" never does.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, Attention)]
    for layer in layers:
        layer.recompute = recompute
    return len(layers)


@contextlib.contextmanager
def attention_off(model: nn.Module, *, only: Collection[nn.Module] | None = None) -> Iterator[None]:
    """Run ``model`` in the block as if its attention brought nothing: each layer's output is `without_attention`'s.

    Args:
        model: the network.
        only: these of its layers; all of them if None.
    """
    handles = [
        layer.register_forward_hook(lambda layer, inputs, y: layer.without_attention(inputs[0], y))  # pyright: ignore[reportCallIssue]
        for layer in model.modules()
        if isinstance(layer, Attention) and (only is None or layer in only)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def attention_activity(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Return how much each attention layer brings for these images, by "gamma NAME" or "attention_share NAME"."""
    found: dict[str, float] = {}
    names = {layer: name for name, layer in model.named_modules() if isinstance(layer, Attention)}

    def note(layer: nn.Module, inputs: Any, y: Tensor) -> None:
        assert isinstance(layer, Attention)
        found[f"{layer.activity_name} {names[layer]}"] = layer.activity(inputs[0], y)

    handles = [layer.register_forward_hook(note) for layer in names]
    try:
        if names:
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def no_weight_decay(model: nn.Module) -> set[str]:
    """Return the names of the parameters that an optimiser should not shrink: norms, biases, gammas, position tables.

    They have at most one axis, or are a norm's, or an attention layer names them, or ``model`` itself, as timm's
    networks do. Weights under spectral norm decay in their own form, before they are divided.
    """
    listed: Any = ()  # by the model: names, or shell patterns
    own: Any = getattr(model, "no_weight_decay", None)
    if own is not None and model not in _asked:
        _asked.add(model)  # its answer may well be ours
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


_asked: set[nn.Module] = set()  # models whose own list is being made


class LogitChange:
    """Compare the logits (B, K) or (B, K, H, W) of two networks, over any number of batches."""

    def __init__(self) -> None:
        self._moved = self._norm = 0.0  # sums of squares
        self._changed = self._count = 0

    def add(self, before: Tensor, after: Tensor) -> None:
        """Count in a batch of logits ``before`` and ``after`` the change."""
        self._moved += (after.double() - before.double()).square().sum().item()
        self._norm += before.double().square().sum().item()
        self._changed += int((after.argmax(1) != before.argmax(1)).sum())
        self._count += before.argmax(1).numel()

    @property
    def logits_moved(self) -> float:
        """Return the norm of the difference, as a share of the norm of the logits before."""
        return torch.tensor(self._moved / max(self._norm, 1e-300)).sqrt().item()

    @property
    def predictions_changed(self) -> float:
        """Return the percentage of the images, or of their pixels, whose largest logit is another one."""
        return 100 * self._changed / max(self._count, 1)


def attention_widths(
    out_channels: int, *, key_ratio: float, value_ratio: float, num_heads: int, min_head_dim: int
) -> tuple[int, int]:
    """Return max(floor(key_ratio*F/N)*N, min_head_dim*N) and max(floor(value_ratio*F/N)*N, N), the paper's widths."""
    for name, ratio in (("key_ratio", key_ratio), ("value_ratio", value_ratio)):
        if checks.number(name, ratio) < 0:
            raise checks.InputError(f"{name} must not be negative, got {ratio}")
    checks.integer("num_heads", num_heads, at_least=1)
    checks.integer("min_head_dim", min_head_dim, at_least=1)
    # 0.29 * 100 is 28.999999999999996 in binary, so a hair is added before the floor.
    key_dim, value_dim = (math.floor(r * out_channels / num_heads + 1e-9) for r in (key_ratio, value_ratio))
    return max(key_dim, min_head_dim) * num_heads, max(value_dim, 1) * num_heads


def has_own_hooks(module: nn.Module) -> bool:
    """True if ``module`` has hooks, or its forward was replaced: skipping that would be observable."""
    return any(getattr(module, name) for name in HOOKS) or "forward" in vars(module)


def require_split(
    conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, value_channels: int, value_ratio: float, num_heads: int
) -> None:
    """Raise unless attention can take that many of the convolution's outputs and leaves as many to each group."""
    channels, groups = conv.out_channels, conv.groups
    if value_channels > channels:
        raise checks.InputError(
            f"attention cannot take {value_channels} of {channels} output channels (value_ratio={value_ratio}, "
            f"and one channel for each of num_heads={num_heads}); lower value_ratio or num_heads"
        )
    step = math.lcm(groups, num_heads)
    if (channels - value_channels) % groups:
        fits = min(range(step, channels + 1, step), key=lambda n: abs(n - value_channels), default=None)
        raise checks.InputError(
            f"with groups={groups} and num_heads={num_heads}, attention can take a multiple of {step} of the "
            f"{channels} output channels, not {value_channels}; "
            + (f"value_ratio={fits}/{channels} fits" if fits else f"choose num_heads that divides {groups}")
        )


def has_hooks(module: nn.Module) -> bool:
    """True if skipping ``module``'s forward would be observable, by hooks on all modules too, as FLOP counters have."""
    return has_own_hooks(module) or any(getattr(torch_module, f"_global{name}") for name in HOOKS)
