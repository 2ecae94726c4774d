"""A training run and a search for its learning rate: network, data and training put together."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from attnconv.data import ImageData
from attnconv.recipes.attention_observer import AttentionObserver
from attnconv.recipes.images import images_of, loaders_of, require_images
from attnconv.recipes.network import make_network, require_network
from attnconv.train.config import RunConfig
from attnconv.train.device import fabric_of, float32_products, make_engine, make_fabric
from attnconv.train.fit import fit
from attnconv.train.processes import Ranks
from attnconv.train.run_folder import RunFolder
from attnconv.train.track import require_service

if TYPE_CHECKING:
    from attnconv.train.lr_find import LrCurve


def default_out(config: RunConfig, recipe: str | None = None) -> Path:
    """Return where a run goes if nobody says: runs/MODEL-DATA-seedN, or runs/RECIPE-MODEL-seedN."""
    if recipe is not None:
        return Path("runs") / f"{recipe}-{config.model}-seed{config.seed}"
    return Path("runs") / f"{config.model}-{Path(config.data).name}-seed{config.seed}"


def require_known(config: RunConfig) -> None:
    """Raise InputError unless network, options, augmentation and data exist; nothing is loaded or computed."""
    require_network(config)
    require_images(config)


def run(
    config: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    progress: bool = True,
    profile: bool = False,
    ready: Callable[[nn.Module, ImageData], None] | None = None,
) -> dict[str, Any]:
    """Train as ``config`` says, leave the run in the folder ``out``, and return what result.json holds.

    Args:
        profile: also say there, under "profile", where the time of a training step goes.
        ready: called in the first process once the network is made and its images are loaded, before any training.
    Raises:
        InputError: what `require_known`, `load_data` and `fit` refuse; ``out`` is then as it was.
    """
    fabric = fabric_of(config)
    ranks = Ranks(fabric)
    ranks.on_first(lambda: require_known(config))
    if not resume:
        ranks.on_first(RunFolder(out).require_free)  # fit asks again, but loading the data can take minutes
        ranks.on_first(lambda: require_service(config))
    data = ranks.first_then_others(lambda: images_of(config))  # so that only one of them downloads
    meta = data.meta()
    train, val = loaders_of(config, data, fabric.device)
    for loader in (train, val):
        loader.order = loader.order.shard(ranks.rank, ranks.world)
    model = ranks.first_then_others(lambda: make_network(config, meta))  # so that one says what does not fit
    if ready is not None and ranks.first:
        ready(model, data)
    return fit(
        model,
        train,
        val,
        config=config,
        out=out,
        meta=meta,
        observer=AttentionObserver(),
        fabric=fabric,
        resume=resume,
        progress=progress,
        profile=profile,
    )


def lr_find(
    config: RunConfig, *, low: float = 1e-6, high: float = 10.0, steps: int = 100, progress: bool = True
) -> "LrCurve":
    """Return the losses of the steps that a run would take, in one process, at a growing learning rate."""
    from attnconv.train.lr_find import find_lr

    config = dataclasses.replace(config, devices=1, nodes=1, sync_batchnorm=False, ema=None)
    require_known(config)
    fabric = make_fabric(config.device, config.precision, devices=1)
    data = images_of(config)
    train, _ = loaders_of(config, data, fabric.device)
    engine = make_engine(make_network(config, data.meta()), config, fabric)
    with float32_products(config.precision, fabric.device):
        return find_lr(engine, config, train, low=low, high=high, steps=steps, progress=progress)
