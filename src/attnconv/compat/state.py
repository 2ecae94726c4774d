"""The state dict of a single layer, out of what was saved around it."""

from collections.abc import Mapping
from typing import Any

WRAPPER = "module."  # of nn.DataParallel


def bare(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict in ``state``, which may hold it under "model", without ``module.`` where all names have it."""
    inner = state.get("model")
    state = inner if isinstance(inner, Mapping) else state
    if not state or not all(str(name).startswith(WRAPPER) for name in state):
        return state
    return {name.removeprefix(WRAPPER): value for name, value in state.items()}
