"""Whether anybody would notice that a module is not called."""

from torch import nn
from torch.nn.modules import module as torch_module

OWN = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def heard(module: nn.Module) -> bool:
    """Whether ``module`` has hooks, every module has (as under a FLOP counter), or its forward was replaced."""
    return (
        any(getattr(module, name) for name in OWN)
        or any(getattr(torch_module, f"_global{name}") for name in OWN)
        or "forward" in vars(module)
    )
