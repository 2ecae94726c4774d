"""attnconv: self-attention inside convolutional networks, in PyTorch.

Public names load on first access, so that ``import attnconv`` and the command line start quickly.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Attention",
    "AugmentedConv1d",
    "AugmentedConv2d",
    "AugmentedConv3d",
    "SelfAttention",
    "SimpleSelfAttention",
    "compat",
    "create_model",
    "explain",
    "fit",
    "layers",
    "list_models",
    "models",
    "ops",
    "register_attention",
    "register_dataset",
    "register_model",
    "surgery",
    "valid_sizes",
]

_PACKAGES = ("compat", "explain", "layers", "models", "ops", "surgery")
# The package of each other name; "layers" if it is not here.
_HOMES = {
    "create_model": "models",
    "fit": "recipes",
    "list_models": "networks",
    "register_dataset": "data",
    "register_model": "models",
}

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
    from attnconv.models import create_model, register_model
    from attnconv.networks import list_models
    from attnconv.recipes import fit


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"attnconv.{name}")
    if name in __all__:
        return getattr(import_module(f"attnconv.{_HOMES.get(name, 'layers')}"), name)
    raise AttributeError(f"module 'attnconv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
