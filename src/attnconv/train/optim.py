"""The optimisers, and which parameters they decay."""

from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from attnconv.train.config import RunConfig

# Adam's second beta and eps are those of SimpleSelfAttention's published runs; RMSprop shares both here.
SMOOTHING = 0.99
EPS = 1e-6


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: weights, which decay, and norms, biases, gammas and position tables, which do not.

    A parameter with at most one axis is of the second kind, and so is one whose own name begins with ``key_rel``.
    """
    decayed, spared = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_table = name.rpartition(".")[2].startswith("key_rel")
            (spared if parameter.ndim <= 1 or is_table else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]


def build_optimizer(model: nn.Module, config: RunConfig) -> Optimizer:
    """The optimiser that ``config`` names; AdamW's decay is decoupled, the others' an L2 term in the gradient."""
    groups, lr, momentum = decay_groups(model, config.weight_decay), config.lr, config.momentum
    match config.optimizer:
        case "sgd":
            return SGD(groups, lr=lr, momentum=momentum)
        case "adam":
            return Adam(groups, lr=lr, betas=(momentum, SMOOTHING), eps=EPS)
        case "adamw":
            return AdamW(groups, lr=lr, betas=(momentum, SMOOTHING), eps=EPS)
        case "rmsprop":
            return RMSprop(groups, lr=lr, alpha=SMOOTHING, momentum=momentum, eps=EPS)
