"""attnconv: self-attention inside convolutional networks, in PyTorch.

The public names load when first asked for, so that ``import attnconv``, and with it the command line, is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAYERS = (
    *("Attention", "AugmentedConv1d", "AugmentedConv2d", "AugmentedConv3d", "SelfAttention", "SimpleSelfAttention"),
    *("register_attention", "valid_sizes"),
)
_NAMES = {
    **dict.fromkeys(_LAYERS, "layers"),
    "register_model": "models",
    "register_dataset": "data",
    "fit": "recipes",
}
_PACKAGES = ("compat", "explain", "layers", "models", "ops", "surgery")

__all__ = [
    "Attention",
    "AugmentedConv1d",
    "AugmentedConv2d",
    "AugmentedConv3d",
    "SelfAttention",
    "SimpleSelfAttention",
    "compat",
    "explain",
    "fit",
    "layers",
    "models",
    "ops",
    "register_attention",
    "register_dataset",
    "register_model",
    "surgery",
    "valid_sizes",
]

if TYPE_CHECKING:
    from attnconv import compat, explain, layers, models, ops, surgery
    from attnconv.data import register_dataset
    from attnconv.layers import (
        Attention,
        AugmentedConv1d,
        AugmentedConv2d,
        AugmentedConv3d,
        SelfAttention,
        SimpleSelfAttention,
        register_attention,
        valid_sizes,
    )
    from attnconv.models import register_model
    from attnconv.recipes import fit


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(f"attnconv.{_NAMES[name]}"), name)
    if name in _PACKAGES:
        return import_module(f"attnconv.{name}")
    raise AttributeError(f"module 'attnconv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
