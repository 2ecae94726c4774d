"""Entry points of torch.hub: each network of `attnconv models`, and networks that were saved.

``torch.hub.load("path/to/attnconv", "aa_resnet50", source="local", num_classes=10)``
"""

import sys as _sys
from collections.abc import Callable as _Callable
from pathlib import Path as _Path
from typing import Any as _Any

# torch.hub puts this folder on the path, and the package lies in src/, unless it is installed.
_SRC = str(_Path(__file__).resolve().parent / "src")
_sys.path.insert(0, _SRC)
try:
    from attnconv import models as _models
finally:
    _sys.path.remove(_SRC)

dependencies = ["torch", "numpy"]

from_pretrained = _models.from_pretrained


def _defaults(name: str) -> dict[str, int]:
    """What a network was published for, or a small image for those of a label a pixel."""
    if "unet" in name:
        return {"num_classes": 2, "image_size": 64}
    if "convnet" in name or "wide_resnet" in name:
        return {"num_classes": 100, "image_size": 32}
    return {"num_classes": 1000, "image_size": 224}


def _entry(name: str) -> _Callable[..., _Any]:
    def build(**settings: _Any) -> _models.HubNetwork | tuple[_models.HubNetwork, _models.Transfer]:
        return _models.create_model(name, **{**_defaults(name), **settings})

    build.__name__ = build.__qualname__ = name
    shown = ", ".join(f"{key}={value}" for key, value in _defaults(name).items())
    build.__doc__ = f"`attnconv.models.create_model({name!r}, ...)`, with {shown} if nothing else is given."
    return build


for _name in (*_models.list_models(), *_models.list_models(dense=True)):
    globals()[_name] = _entry(_name)
