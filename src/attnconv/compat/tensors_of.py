"""The tensors that a layer's load_state_dict is given, whatever they are wrapped in."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from attnconv.foreign import read_state_dict


def tensors_of(state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the tensors in ``state_dict`` by name, with torch's own record of the versions of modules.

    An empty mapping passes as it is: what it lacks is for torch to say, or to let pass.
    """
    if isinstance(state_dict, Mapping) and not state_dict:
        return state_dict
    tensors = OrderedDict(read_state_dict(state_dict).tensors)
    if (versions := getattr(state_dict, "_metadata", None)) is not None:
        tensors._metadata = versions  # pyright: ignore[reportAttributeAccessIssue]
    return tensors
