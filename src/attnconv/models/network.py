"""The base of all classifiers: features, mean pooling, a linear layer, and the methods that timm asks of a network.

Letters: B batch, C channels of the last stage, H rows, W columns of its map.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnconv import checks, weights
from attnconv.models.hub import HubNetwork


class Network(HubNetwork):
    """A subclass has ``forward_features``, stages named layer1, layer2, ..., and the classifier ``fc``.

    Shapes: (B, in_channels, rows, columns) -> (B, num_classes), or (B, C) after ``reset_classifier(0)``.
    """

    fc: nn.Module
    num_features: int  # C
    drop_rate: float = 0.0  # of the pooled features, in training
    feature_info: list[dict[str, Any]]  # set by `attnconv.timm`

    def __init__(self) -> None:
        super().__init__()
        self.global_pool = "avg"

    def add_classifier(self, num_features: int, num_classes: int) -> None:
        """Make ``fc``, the last step of a subclass's constructor."""
        self.num_features = self.head_hidden_size = num_features
        self.reset_classifier(num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, rows, columns) -> (B, C, H, W)."""
        raise NotImplementedError(f"{type(self).__name__} has to define forward_features")

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C, H, W) -> (B, num_classes); what ``fc`` would take if ``pre_logits``."""
        if self.global_pool:
            x = x.mean((2, 3))
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def stage_names(self) -> list[str]:
        """Return the names of the modules whose outputs are the stages' features, in their order: layer1, ..."""
        return [name for name, _ in self.named_children() if name.startswith("layer")]

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Make a new ``fc`` of so many outputs; 0 leaves pooled features, or unpooled ones if the pool is ""."""
        checks.integer("num_classes", num_classes, at_least=0)
        pool = self.global_pool if global_pool is None else checks.one_of("global_pool", global_pool, ("avg", ""))
        if not pool and num_classes:
            raise checks.InputError(f"global_pool='' leaves a map, for which num_classes must be 0, got {num_classes}")
        self.num_classes, self.global_pool = num_classes, pool
        like = next(self.parameters(), torch.empty(0))
        self.fc = nn.Identity()
        if num_classes:
            self.fc = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)

    def no_weight_decay(self) -> set[str]:
        """Return the names of the norms, biases, gates and position tables, which an optimiser should not shrink."""
        return weights.no_weight_decay(self)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return regular expressions that sort parameters by depth, for learning rates that decay towards the input."""
        return {"stem": r"^(?:conv1|bn1|stem)\b", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        if enable:
            raise checks.InputError(f"{type(self).__name__} has no gradient checkpointing")
