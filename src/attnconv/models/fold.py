"""A network whose constrained weights are plain ones, for files that know no parametrizations."""

import copy
from typing import TypeVar

from torch import nn
from torch.nn.utils import parametrize

Model = TypeVar("Model", bound=nn.Module)


def folded(model: Model) -> Model:
    """Return a copy of ``model`` in eval mode in which parametrizations, such as spectral norm, have become weights.

    ``model`` stays as it is: eval mode does not advance a power iteration, and only the copy is changed.
    """
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if not parametrize.is_parametrized(module):
            continue
        # Not remove_parametrizations: the copy shares its class with the original, which would be stripped, too.
        chains = module.parametrizations
        assert isinstance(chains, nn.ModuleDict)
        weights = {name: getattr(module, name).detach().clone() for name in chains}
        plain = parametrize.type_before_parametrizations(module)  # which asks for the chains
        del module.parametrizations
        module.__class__ = plain
        for name, weight in weights.items():
            module.register_parameter(name, nn.Parameter(weight))
    return model
