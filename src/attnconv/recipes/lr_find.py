"""The learning rates that a run could take, found on its own network and data."""

import dataclasses

from attnconv.recipes.images import images_of, loaders_of
from attnconv.recipes.run import fitting_network
from attnconv.train.config import RunConfig
from attnconv.train.device import float32_products, make_fabric
from attnconv.train.engine import make_engine
from attnconv.train.lr_find import LrCurve, find_lr


def lr_find(
    config: RunConfig, *, low: float = 1e-6, high: float = 10.0, steps: int = 100, progress: bool = True
) -> LrCurve:
    """The curve of the network, data, steps and optimiser that ``config`` describes, in one process."""
    config = dataclasses.replace(config, devices=1, nodes=1, sync_batchnorm=False, ema=None)
    fabric = make_fabric(config.device, config.precision, devices=1)
    data = images_of(config)
    train, _ = loaders_of(config, data, fabric.device)
    engine = make_engine(fitting_network(config, data), config, fabric)
    with float32_products(config.precision, fabric.device):
        return find_lr(engine, config, train, low=low, high=high, steps=steps, progress=progress)
