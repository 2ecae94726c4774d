"""Networks by name, `list_models` and `create_model`; and from a folder or the Hub, `from_pretrained`."""

from attnconv.layers.attention import set_recompute
from attnconv.models.init_from import Transfer
from attnconv.models.network import HubNetwork, from_pretrained, push_to_hub, save_pretrained
from attnconv.models.registry import create_model, list_models, register_model

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
