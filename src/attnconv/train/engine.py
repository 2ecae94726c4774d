"""A network and its optimiser as Fabric runs them: precision, memory format, compilation, devices."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from attnconv import checks
from attnconv.train.checkpoint import require_weights
from attnconv.train.config import RunConfig
from attnconv.train.optim import WeightAverage, build_optimizer
from attnconv.train.processes import Ranks

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Engine:
    """A network set up by Fabric: ``bare`` is the network itself, ``model`` the same as it is to be called."""

    fabric: "Fabric"
    ranks: Ranks
    bare: nn.Module
    model: nn.Module
    optimizer: Any  # Fabric's
    average: WeightAverage | None

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds of the engine."""
        return {
            "model": self.bare.state_dict(),
            "optimizer": self.optimizer.optimizer.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "average": self.average and self.average.state_dict(),
        }

    def load_state_dict(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Put back what `state_dict` gave, read from ``path``.

        Raises:
            InputError: the weights are another network's, or the optimiser's state is.
        """
        require_weights(self.bare, checkpoint, path)
        try:
            self.bare.load_state_dict(checkpoint["model"])
            self.optimizer.optimizer.load_state_dict(checkpoint["optimizer"])
            self.fabric.strategy.precision.load_state_dict(checkpoint["scaler"])
            if self.average is not None:
                self.average.load_state_dict(checkpoint["average"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise checks.InputError(f"{path} is damaged: {type(error).__name__}: {error}") from error


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
