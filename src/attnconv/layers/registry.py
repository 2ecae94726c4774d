"""Attention layers by name: ours, the user's, those of installed packages, and timm's.

A name in a file imports nothing except what an installed package offers as an entry point, and timm for the names in
timm's own list.
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

Layer = Callable[..., Any]  # returns an Attention
Kind = str | Layer


@dataclass(frozen=True)
class AttentionKind:
    """A named factory of attention layers.

    Args:
        name: name of `register_attention`.
        layer: makes a layer from channels and options; if it replaces a convolution, its ``from_conv`` does so from
            the convolution, the size of its map and options.
        replaces_conv: True if the layer replaces a convolution; False if it follows a module.
        options: options with defaults.
        others: True if it may take other options too.
    """

    name: str
    layer: Layer
    replaces_conv: bool
    options: Mapping[str, Any]
    others: bool = False

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise InputError unless the layer has all ``options``."""
        for name in options:
            if not self.others:
                checks.one_of(f"option of attention layer {self.name!r}:", name, self.options)

    def make(self, *arguments: Any, **options: Any) -> Attention:
        """Return a new layer from (channels) or, if it replaces a convolution, from (conv, map_size).

        Raises:
            InputError: an unknown option (the nearest is named), or the layer's code fails or makes something else.
        """
        self.check_options(options)
        make: Any = self.layer
        with extensions.user_code(f"attention layer {self.name!r} cannot be made"):
            made = (make.from_conv if self.replaces_conv else make)(*arguments, **options)
        if not isinstance(made, Attention):
            raise checks.InputTypeError(f"attention layer {self.name!r}: {_without_base(type(made))}")
        return made


_REGISTERED: dict[str, AttentionKind] = {}


def register_attention(name: str, layer: Layer, *, replaces_conv: bool = False) -> None:
    """Register an attention layer under ``name`` for surgery, the command line, configurations and plans.

    Args:
        name: letters, digits and ``._-``.
        layer: a subclass of `attnconv.Attention`, or a function that makes one, called with the channels of the map and
            its options as keyword arguments.
        replaces_conv: True if the layer replaces a convolution: its class method ``from_conv`` is then called with the
            convolution, the size of its output map and options.
    Raises:
        InputError: the name is taken, or the layer lacks something, which is named.
    """
    old = _REGISTERED[name].layer if name in _REGISTERED else None
    extensions.require_free("an attention layer", name, layer, old)
    _REGISTERED[name] = _kind_of(name, layer, replaces_conv=replaces_conv)


def list_attention(pattern: str = "*") -> list[str]:
    """Return the sorted names of attention layers that match a shell pattern; timm:NAME gives more."""
    return sorted(fnmatch.filter({*_REGISTERED, *extensions.offered(GROUP)}, pattern))


def find_attention(kind: Kind) -> AttentionKind:
    """Return the factory of layers of ``kind``: a name, a class, or a function of channels.

    Raises:
        InputError: unknown name (the nearest is named), or the layer lacks something, which is named.
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
            f"unknown attention layer {kind!r}; {checks.nearest(kind, known)}; register your own with "
            "register_attention, and on the command line --import MODULE"
        )
    return _REGISTERED[kind]


def is_known(kind: str) -> bool:
    """True if a layer of that name is registered, so that `find_attention` imports nothing."""
    return kind in _REGISTERED


def is_users(kind: str) -> bool:
    """True if the user registered the layer: it is not ours, timm's or an installed package's."""
    own = kind in _REGISTERED and not _dotted(_REGISTERED[kind].layer).startswith("attnconv.")
    return own and kind not in extensions.offered(GROUP)


def replaces_conv(module: nn.Module) -> bool:
    """True for an attention layer that replaces a convolution."""
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
            raise checks.InputError(f"{what}: {layer.__name__} must define {', '.join(lacking)}")
    elif replaces_conv:
        raise checks.InputTypeError(f"{what} replaces a convolution and must be a class with from_conv, got a function")
    make = getattr(layer, "from_conv", layer) if replaces_conv else layer
    options, others = _options_of(make, name, skipped=2 if replaces_conv else 1)
    return AttentionKind(name, layer, replaces_conv, options, others)


def _options_of(make: Any, name: str, *, skipped: int) -> tuple[dict[str, Any], bool]:
    """Return the options after the first arguments of ``make`` with defaults, and True if it takes any other."""
    called = "the convolution and the size of its map" if skipped == 2 else "the channels"
    try:
        parameters = list(inspect.signature(make).parameters.values())
        inspect.signature(make).bind(*[None] * skipped)
    except (TypeError, ValueError):
        raise checks.InputError(f"attention layer {name!r} must be made from {called} and options only") from None
    named = [p for p in parameters[skipped:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {p.name: p.default for p in named}, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _without_base(layer: type) -> str:
    return f"{layer.__name__} is not an attnconv.Attention; derive it from that class"


def _dotted(layer: Any) -> str:
    return f"{getattr(layer, '__module__', '')}.{getattr(layer, '__qualname__', repr(layer))}"


register_attention("simple", SimpleSelfAttention)
register_attention("sagan", SelfAttention)
register_attention("augmented", AugmentedConvNd, replaces_conv=True)
