"""Networks by name (`create_model`, `list_models`), and saved networks (`from_pretrained`)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from attnconv.layers.attention import set_recompute
from attnconv.models.init_from import Transfer
from attnconv.models.network import HubNetwork
from attnconv.models.registry import create_model, list_models, register_model

if TYPE_CHECKING:
    from attnconv.models.hub import from_pretrained, push_to_hub, save_pretrained

__all__ = [
    "HubNetwork",
    "Transfer",
    "create_model",
    "from_pretrained",
    "list_models",
    "push_to_hub",
    "register_model",
    "save_pretrained",
    "set_recompute",
]


def __getattr__(name: str) -> Any:
    if name in ("from_pretrained", "push_to_hub", "save_pretrained"):  # on first access: training does not need them
        return getattr(import_module("attnconv.models.hub"), name)
    raise AttributeError(f"module 'attnconv.models' has no attribute {name!r}")
