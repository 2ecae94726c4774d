"""A network and its optimiser as Fabric runs them: precision, memory format, compilation, devices."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from attnconv.train.average import WeightAverage
from attnconv.train.config import RunConfig
from attnconv.train.optim import build_optimizer
from attnconv.train.ranks import Ranks

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Engine:
    """What a step needs. ``bare`` is the network itself, ``model`` the same as it is to be called."""

    fabric: "Fabric"
    ranks: Ranks
    bare: nn.Module
    model: nn.Module
    optimizer: Any  # Fabric's
    average: WeightAverage | None

    @property
    def sharded(self) -> bool:
        """Whether each process has only a part of the weights."""
        return any(isinstance(weight, DTensor) for weight in self.bare.parameters())


def make_engine(model: nn.Module, config: RunConfig, fabric: "Fabric") -> Engine:
    """Put ``model`` on the device of a launched ``fabric``."""
    if config.sync_batchnorm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    called = fabric.setup_module(torch.compile(model) if config.compile else model)  # pyright: ignore[reportArgumentType]
    optimizer = fabric.setup_optimizers(build_optimizer(model, config))
    average = WeightAverage(model, config.ema) if config.ema else None
    return Engine(fabric, Ranks(fabric), model, called, optimizer, average)
