"""Networks by name: `list_models` and `create_model`."""

from attnconv.models import convnet3 as _convnet3  # noqa: F401  its import fills the registry
from attnconv.models.registry import create_model, list_models

__all__ = ["create_model", "list_models"]
