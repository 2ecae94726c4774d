"""Entry points of torch.hub: each network of `attnconv models`, and networks that were saved.

``torch.hub.load("path/to/attnconv", "aa_resnet50", source="local", num_classes=10)``
"""

import sys as _sys
from collections.abc import Callable as _Callable
from dataclasses import asdict as _asdict
from pathlib import Path as _Path
from typing import Any as _Any

# torch.hub puts this folder on the path, and the package lies in src/, unless it is installed.
_SRC = str(_Path(__file__).resolve().parent / "src")
_sys.path.insert(0, _SRC)
try:
    from attnconv import models as _models
    from attnconv.models.registry import find as _find
finally:
    _sys.path.remove(_SRC)

dependencies = ["torch", "numpy"]

from_pretrained = _models.from_pretrained


def _entry(name: str) -> _Callable[..., _Any]:
    defaults = _asdict(_find(name).images)

    def build(**settings: _Any) -> _models.HubNetwork | tuple[_models.HubNetwork, _models.Transfer]:
        return _models.create_model(name, **settings)

    build.__name__ = build.__qualname__ = name
    shown = ", ".join(f"{key}={value}" for key, value in defaults.items())
    build.__doc__ = f"`attnconv.models.create_model({name!r}, ...)`, with {shown} if nothing else is given."
    return build


for _name in (*_models.list_models(), *_models.list_models(dense=True)):
    globals()[_name] = _entry(_name)
