"""The optimisers, and which parameters they decay."""

from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RAdam, RMSprop

from attnconv.train.config import RunConfig
from attnconv.train.ranger import Ranger

# Second beta and eps of SimpleSelfAttention's published runs, and of the leaderboard's; RMSprop shares both here.
SMOOTHING = 0.99
EPS = 1e-6
NORMS = (nn.LayerNorm, nn.RMSNorm)  # whose weights may have several axes; all others' have one


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: weights, which decay, and norms, biases, gammas and position tables, which do not.

    A parameter with at most one axis is of the second kind, and so are a norm's and one whose own name begins with
    ``key_rel``. Weights under spectral norm decay in their own form, before they are divided.
    """
    of_norms = {
        parameter for module in model.modules() if isinstance(module, NORMS) for parameter in module.parameters()
    }
    decayed, spared = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_table = name.rpartition(".")[2].startswith("key_rel")
            (spared if parameter.ndim <= 1 or is_table or parameter in of_norms else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]


def set_momentum(optimizer: Optimizer, momentum: float) -> None:
    """Give every parameter group this momentum; of the adaptive optimisers it is the first beta."""
    for group in optimizer.param_groups:
        if "betas" in group:
            group["betas"] = (momentum, *group["betas"][1:])
        else:
            group["momentum"] = momentum


def build_optimizer(model: nn.Module, config: RunConfig) -> Optimizer:
    """The optimiser that ``config`` names.

    AdamW, RAdam and Ranger decay the weights themselves; for SGD, Adam and RMSprop decay is a term of the gradient.
    """
    groups, lr, momentum = decay_groups(model, config.weight_decay), config.lr, config.first_momentum
    adaptive: dict[str, Any] = {"lr": lr, "betas": (momentum, SMOOTHING), "eps": EPS}
    match config.optimizer:
        case "sgd":
            return SGD(groups, lr=lr, momentum=momentum)
        case "adam":
            return Adam(groups, **adaptive)
        case "adamw":
            return AdamW(groups, **adaptive)
        case "rmsprop":
            return RMSprop(groups, lr=lr, alpha=SMOOTHING, momentum=momentum, eps=EPS)
        case "radam":
            return RAdam(groups, **adaptive, decoupled_weight_decay=True)
        case "ranger":
            return Ranger(groups, **adaptive, decoupled_weight_decay=True)
