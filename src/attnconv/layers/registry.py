"""Every attention layer under its name: ours, the user's, what installed packages offer, and timm's.

Names in files lead to no import but that of what an installed package offers under the entry points, and that of timm
itself, whose own list the name must be in.
"""

import fnmatch
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from attnconv import checks, extensions
from attnconv.layers.attention import Attention
from attnconv.layers.augmented_conv import AugmentedConvNd
from attnconv.layers.self_attention import SelfAttention, SimpleSelfAttention
from attnconv.layers.timm_attention import TIMM, timm_layer, timm_options

GROUP = "attnconv.layers"  # of entry points
PARTS = (
    "attention_map_size",
    "attention_weights",
    "attention_cost",
    "without_attention",
    "no_weight_decay",
    "citation",
)

Layer = Callable[..., Any]  # of an Attention
Kind = str | Layer


@dataclass(frozen=True)
class AttentionKind:
    """The factory of the attention layers of one name.

    Args:
        name: of `register_attention`.
        layer: makes one, of channels and options; its ``from_conv`` does, of a convolution, a map's size and options,
            if it replaces one.
        replaces_conv: it takes the place of a convolution, and does not stand behind a module.
        options: its options and their defaults.
        others: it may take options that are not listed, too.
    """

    name: str
    layer: Layer
    replaces_conv: bool
    options: Mapping[str, Any]
    others: bool = False

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise InputError unless all are names of the layer's options."""
        for name in options:
            if not self.others:
                checks.one_of(f"option of attention layer {self.name!r}:", name, self.options)

    def make(self, *arguments: Any, **options: Any) -> Attention:
        """Return a new layer, of (channels) or, if it replaces a convolution, of (conv, map_size).

        Raises:
            InputError: an unknown option (the nearest is named), the layer's own code fails, or makes something else.
        """
        self.check_options(options)
        make: Any = self.layer
        try:
            made = (make.from_conv if self.replaces_conv else make)(*arguments, **options)
        except checks.InputError:
            raise
        except Exception as error:  # of somebody's own code
            reason = f"{type(error).__name__}: {checks.first_line(error)}"
            raise checks.InputError(f"attention layer {self.name!r} cannot be made: {reason}") from error
        if not isinstance(made, Attention):
            raise checks.InputTypeError(f"attention layer {self.name!r}: {_without_base(type(made))}")
        return made


_REGISTERED: dict[str, AttentionKind] = {}


def register_attention(name: str, layer: Layer, *, replaces_conv: bool = False) -> None:
    """Let ``name`` be an attention layer in surgery, on the command line, in configurations and in plans.

    Args:
        name: of letters, digits and ``._-``.
        layer: a subclass of `attnconv.Attention`, or a function that makes one; called with the channels of the map
            that it stands behind, and with its own options as keyword arguments.
        replaces_conv: it takes the place of a convolution: its class method ``from_conv`` is called with the
            convolution, the size of its output map, and options.
    Raises:
        InputError: the name is another layer's, or the layer lacks something, which is named.
    """
    old = _REGISTERED[name].layer if name in _REGISTERED else None
    extensions.require_free("an attention layer", name, layer, old)
    _REGISTERED[name] = _kind_of(name, layer, replaces_conv=replaces_conv)


def list_attention(pattern: str = "*") -> list[str]:
    """Return the names of attention layers that match a shell pattern, sorted; timm:NAME stands for more of them."""
    return sorted(fnmatch.filter({*_REGISTERED, *extensions.offered(GROUP)}, pattern))


def find_attention(kind: Kind) -> AttentionKind:
    """Return what makes layers of ``kind``: a name, a class, or a function of channels.

    Raises:
        InputError: there is no layer of that name (the nearest is named), or it lacks something, which is named.
    """
    if not isinstance(kind, str):
        registered = next((found for found in _REGISTERED.values() if found.layer is kind), None)
        return registered or _kind_of(_dotted(kind), kind, replaces_conv=hasattr(kind, "from_conv"))
    if kind.startswith(TIMM):
        name = kind.removeprefix(TIMM)
        options, others = _options_of(timm_options(name), kind, skipped=1)
        return AttentionKind(kind, timm_layer(name), False, options, others)
    if kind not in _REGISTERED and (layer := extensions.load_offered(GROUP, kind)) is not None:
        register_attention(kind, layer, replaces_conv=hasattr(layer, "from_conv"))
    if kind not in _REGISTERED:
        known = [*list_attention(), f"{TIMM}se"]
        raise checks.InputError(
            f"unknown attention layer {kind!r}; {checks.nearest(kind, known)}; one of your own is known "
            "after register_attention, on the command line --import MODULE"
        )
    return _REGISTERED[kind]


def is_known(kind: str) -> bool:
    """True if a layer of that name is registered, so that `find_attention` loads nothing."""
    return kind in _REGISTERED


def is_users(kind: str) -> bool:
    """True if a module of the user's own registers it: it is not ours, timm's, or an installed package's."""
    own = kind in _REGISTERED and not _dotted(_REGISTERED[kind].layer).startswith("attnconv.")
    return own and kind not in extensions.offered(GROUP)


def replaces_conv(module: nn.Module) -> bool:
    """True for an attention layer that stands in the place of a convolution."""
    return isinstance(module, Attention) and hasattr(module, "from_conv")


def _kind_of(name: str, layer: Any, *, replaces_conv: bool) -> AttentionKind:
    what = f"attention layer {name!r}"
    if not callable(layer) or isinstance(layer, nn.Module):
        raise checks.InputTypeError(f"{what} must be a class or a function, got {type(layer).__name__}")
    if isinstance(layer, type):
        if not issubclass(layer, Attention):
            raise checks.InputTypeError(f"{what}: {_without_base(layer)}")
        wanted = {"forward": nn.Module}
        if replaces_conv:
            wanted |= {"from_conv": Attention, "without_attention": Attention}
        lacking = [part for part, base in wanted.items() if getattr(layer, part, None) is getattr(base, part, None)]
        if lacking:
            raise checks.InputError(f"{what}: {layer.__name__} has to define {', '.join(lacking)}")
    elif replaces_conv:
        raise checks.InputTypeError(f"{what} replaces a convolution and must be a class with from_conv, got a function")
    make = getattr(layer, "from_conv", layer) if replaces_conv else layer
    options, others = _options_of(make, name, skipped=2 if replaces_conv else 1)
    return AttentionKind(name, layer, replaces_conv, options, others)


def _options_of(make: Any, name: str, *, skipped: int) -> tuple[dict[str, Any], bool]:
    """Return the options behind the first arguments of ``make`` and their defaults, and whether it takes any other."""
    called = "the convolution and the size of its map" if skipped == 2 else "the channels"
    try:
        parameters = list(inspect.signature(make).parameters.values())
        inspect.signature(make).bind(*[None] * skipped)
    except (TypeError, ValueError):
        raise checks.InputError(f"attention layer {name!r} must be made of {called} alone, options apart") from None
    named = [p for p in parameters[skipped:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {p.name: p.default for p in named}, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _without_base(layer: type) -> str:
    lacking = ", ".join(part for part in PARTS if not hasattr(layer, part))
    return f"{layer.__name__} is no attnconv.Attention, and lacks {lacking}; derive it from that, all have a default"


def _dotted(layer: Any) -> str:
    return f"{getattr(layer, '__module__', '')}.{getattr(layer, '__qualname__', repr(layer))}"


register_attention("simple", SimpleSelfAttention)
register_attention("sagan", SelfAttention)
register_attention("augmented", AugmentedConvNd, replaces_conv=True)
