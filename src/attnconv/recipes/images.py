"""The images of a run, as its configuration says."""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from attnconv import checks
from attnconv.data import DATA_SETS, Augmentation, ImageData, load_data
from attnconv.data.batches import Loader
from attnconv.train.config import YOUR_FOLDER, RunConfig

if TYPE_CHECKING:
    from attnconv.recipes.trained import Trained


def require_images(config: RunConfig) -> None:
    """Raise InputError unless the data of ``config`` are a set's name or a folder, and its augmentation is in range."""
    augmentation_of(config)
    if config.data not in DATA_SETS and not Path(os.path.expanduser(config.data)).is_dir():
        raise checks.InputError(
            f"{config.data!r} is neither a data set nor an existing folder; {checks.nearest(config.data, DATA_SETS)}"
        )


def images_of(config: RunConfig) -> ImageData:
    """Return the data that ``config`` names; InputError as `load_data`."""
    return load_data(
        config.data,
        data_dir=config.data_dir,
        image_size=config.image_size,
        train_subset=config.train_subset,
        skip_bad_images=config.skip_bad_images,
        presize=config.presize,
        cache_images=config.cache_images,
    )


def images_for(
    trained: "Trained",
    *,
    data: str | None = None,
    data_dir: Path | None = None,
    image_size: int | None = None,
    skip_bad_images: bool = False,
    or_else: str = "name it",
) -> ImageData:
    """Return images to score ``trained`` on, normalised as it knows them: its own, or those of ``data``.

    Args:
        data, data_dir, image_size, skip_bad_images: as `load_data`; the run's own if None.
        or_else: what to do if the network does not say in which folder its images are.
    Raises:
        InputError: as `load_data`, they have other classes, or nothing says where they are.
    """
    config, classes = trained.config, trained.meta["classes"]
    if data is None and config.data == YOUR_FOLDER:
        raise checks.InputError(
            f"{trained.checkpoint} does not say in which folder the images are that it was trained on; {or_else}"
        )
    is_own = data in (None, config.data)  # which need not be square
    own_size = config.image_size if is_own else trained.meta["image_size"][0]
    found = load_data(
        data or config.data,
        data_dir=data_dir or config.data_dir,
        image_size=own_size if image_size is None else image_size,
        skip_bad_images=skip_bad_images,
        presize=config.presize,
    )
    if list(found.classes) != classes:
        unknown = sorted(set(found.classes) - set(classes))
        what = f"{unknown[0]!r} is not among them" if unknown else "not the same ones in the same order"
        raise checks.InputError(f"{found.name!r} has {len(found.classes)} classes, the network {len(classes)}: {what}")
    return dataclasses.replace(found, mean=tuple(trained.meta["mean"]), std=tuple(trained.meta["std"]))


def loaders_of(config: RunConfig, data: ImageData, device: torch.device) -> tuple[Loader, Loader]:
    """Return the training loader and the validation loader of a run on ``data``."""
    return data.loaders(
        batch_size=config.batch_size,
        seed=config.seed,
        device=device,
        workers=config.workers,
        augmentation=augmentation_of(config),
    )


def augmentation_of(config: RunConfig) -> Augmentation:
    """Return what ``config`` does to training images."""
    return Augmentation(
        crop_scale=config.crop_scale,
        trivial=config.trivial_augment,
        erasing=config.random_erasing,
        mixup=config.mixup,
        cutmix=config.cutmix,
    )
