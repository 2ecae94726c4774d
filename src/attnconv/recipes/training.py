"""Train a network, or search its learning rate: network, data and training loop put together.

Letters: B batch, C channels, K classes, H rows, W columns.
"""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from attnconv import checks
from attnconv.data import Augmentation, ImageData, batches, load_data
from attnconv.data.load import require_data
from attnconv.recipes.network import channels_of, make_network, require_network
from attnconv.train.config import RunConfig
from attnconv.train.device import fabric_of, float32_products, make_engine, make_fabric
from attnconv.train.fit import fit
from attnconv.train.processes import Ranks
from attnconv.train.run_folder import RunFolder
from attnconv.train.track import require_service

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from attnconv.train.lr_find import LrCurve


# Options of load_data.
OF_DATA = ("data_dir", "image_size", "train_subset", "skip_bad_images", "presize", "cache_images", "val_split", "seed")
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def default_out(config: RunConfig, recipe: str | None = None) -> Path:
    """Return the default folder of a run: runs/MODEL-DATA-seedN, or runs/RECIPE-MODEL-seedN."""
    model = config.model.replace(":", "-")
    if recipe is not None:
        return Path("runs") / f"{recipe}-{model}-seed{config.seed}"
    return Path("runs") / f"{model}-{Path(config.data).name}-seed{config.seed}"


def require_known(config: RunConfig, *, fresh: bool = True) -> None:
    """Raise InputError unless network, options, augmentation and data are known. Loads and computes nothing."""
    require_network(config, fresh=fresh)
    augmentation_of(config)
    require_data(config.data)


def run(
    config: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    progress: bool = True,
    profile: bool = False,
    ready: Callable[[nn.Module, ImageData], None] | None = None,
) -> dict[str, Any]:
    """Train as ``config`` says, write the run to the folder ``out``, and return the contents of result.json.

    Args:
        profile: add a profile of a training step under "profile".
        ready: called in the first process when network and images are loaded, before training.
    Raises:
        InputError: as `require_known`, `load_data` and `fit`; ``out`` is left unchanged.
    """
    fabric = fabric_of(config)
    ranks = Ranks(fabric)
    fresh = not (resume and RunFolder(out).holds_checkpoint())
    ranks.on_first(lambda: require_known(config, fresh=fresh))
    if not resume:
        ranks.on_first(RunFolder(out).require_free)  # fit checks again, but loading data can take minutes
        ranks.on_first(lambda: require_service(config))
    data = ranks.first_then_others(lambda: images_of(config))  # so that one process downloads
    return train_on(data, config, out, fabric, resume=resume, progress=progress, profile=profile, ready=ready)


def train_on(
    data: ImageData,
    config: RunConfig,
    out: Path,
    fabric: "Fabric",
    *,
    network: nn.Module | None = None,
    resume: bool,
    progress: bool,
    profile: bool = False,
    ready: Callable[[nn.Module, ImageData], None] | None = None,
) -> dict[str, Any]:
    """Train on ``data`` as `run` does: ``network``, or the one that ``config`` names if it is None."""
    ranks, meta = Ranks(fabric), data.meta()
    loaders = loaders_of(config, data, fabric.device)
    for loader in loaders:
        loader.order = loader.order.shard(ranks.rank, ranks.world)
    fresh = not (resume and RunFolder(out).holds_checkpoint())
    # One process after the other, so that a single one reports an error.
    model, taken_over, notes = ranks.first_then_others(lambda: make_network(config, meta, given=network, fresh=fresh))
    require_batch_norm(model, config, batch_size_for(config, data), ranks.world)
    if ready is not None and ranks.first:
        ready(model, data)
    return fit(
        model,
        *loaders,
        config=config,
        out=out,
        meta=meta,
        taken_over=taken_over,
        fabric=fabric,
        resume=resume,
        notes=[*data.notes, *notes, *batch_notes(config, data)],
        progress=progress,
        profile=profile,
    )


def lr_find(
    config: RunConfig, *, low: float = 1e-6, high: float = 10.0, steps: int = 100, progress: bool = True
) -> "LrCurve":
    """Return the losses of a run's steps in one process, at a growing learning rate."""
    from attnconv.train.lr_find import find_lr

    config = dataclasses.replace(config, devices=1, nodes=1, sync_batchnorm=False, ema=None)
    require_known(config)
    fabric = make_fabric(config.device, config.precision, devices=1)
    data = images_of(config)
    train, _ = loaders_of(config, data, fabric.device)
    model, taken_over, _ = make_network(config, data.meta())
    require_batch_norm(model, config, batch_size_for(config, data), 1)
    engine = make_engine(model, config, fabric)
    with float32_products(config.precision, fabric.device):
        return find_lr(engine, config, train, taken_over=taken_over, low=low, high=high, steps=steps, progress=progress)


def images_of(config: RunConfig) -> ImageData:
    """Return the data of ``config``, in the channels that its network takes; InputError as `load_data`."""
    found = load_data(config.data, **{name: getattr(config, name) for name in OF_DATA})
    return found.with_channels(channels_of(config, found.channels))


def loaders_of(config: RunConfig, data: ImageData, device: torch.device) -> tuple[batches.Loader, batches.Loader]:
    """Return the training loader and the validation loader of a run on ``data``."""
    return data.loaders(
        batch_size=batch_size_for(config, data),
        seed=config.seed,
        device=device,
        workers=config.workers,
        augmentation=augmentation_of(config),
    )


def batch_size_for(config: RunConfig, data: ImageData) -> int:
    """Return the images a step: the configured number, or fewer if it is the default and the set is smaller.

    The smaller number is the power of two that gives at least four steps an epoch, or two images for each part of a
    step.
    """
    if config.batch_size != RunConfig.batch_size or data.num_train >= config.batch_size:
        return config.batch_size
    return min(data.num_train, max(2 * config.accumulate, 2 ** int(math.log2(max(1, data.num_train // 4)))))


def batch_notes(config: RunConfig, data: ImageData) -> list[str]:
    """Return notes about the batches of a run on ``data``."""
    size = batch_size_for(config, data)
    steps = data.num_train // size
    notes = []
    if size != config.batch_size:
        notes.append(f"batches of {size}: the default, {config.batch_size}, is more than the {data.num_train} images")
    if 0 < steps <= 2:
        left = data.num_train - steps * size
        notes.append(
            f"an epoch has {steps} step{'s' * (steps != 1)} of {size} images"
            + (f", and {left} of {data.num_train} images are left out of it" if left else "")
            + ": a smaller batch_size gives more"
        )
    return notes


def has_batch_norm(model: nn.Module) -> bool:
    """True if ``model`` has a layer of batch norm."""
    return any(isinstance(module, BATCH_NORMS) for module in model.modules())


def require_batch_norm(model: nn.Module, config: RunConfig, batch_size: int, world: int) -> None:
    """Raise InputError, naming the options to change, if batch norm would see one image at a time."""
    own = batch_size if config.sync_batchnorm else batch_size // world
    if own // max(1, min(config.accumulate, own)) > 1 or not has_batch_norm(model):
        return
    fewer = f"accumulate {own // 2} at most, or " if config.accumulate > 1 and own > 1 else ""
    raise checks.InputError(
        f"batch_size {batch_size} leaves batch norm one image at a time"
        + (f" with accumulate {config.accumulate}" if config.accumulate > 1 else "")
        + (f" in {world} processes" if world > 1 else "")
        + f": give {fewer}batch_size {2 * config.accumulate * (1 if config.sync_batchnorm else world)} at least"
    )


def augmentation_of(config: RunConfig) -> Augmentation:
    """Return the augmentation of training images."""
    return Augmentation(
        crop_scale=config.crop_scale,
        trivial=config.trivial_augment,
        erasing=config.random_erasing,
        mixup=config.mixup,
        cutmix=config.cutmix,
    )
