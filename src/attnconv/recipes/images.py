"""The images of a run, as its configuration says."""

import torch

from attnconv.data import Augmentation, ImageData, load_data
from attnconv.data.image_data import Loader
from attnconv.train.config import RunConfig


def images_of(config: RunConfig) -> ImageData:
    """The data that ``config`` names; InputError as `load_data`, and for augmentation out of its range."""
    augmentation_of(config)  # rather now than after a download
    return load_data(
        config.data,
        data_dir=config.data_dir,
        image_size=config.image_size,
        train_subset=config.train_subset,
        skip_bad_images=config.skip_bad_images,
        presize=config.presize,
        cache_images=config.cache_images,
    )


def loaders_of(config: RunConfig, data: ImageData, device: torch.device) -> tuple[Loader, Loader]:
    """The training loader and the validation loader of a run on ``data``."""
    return data.loaders(
        batch_size=config.batch_size,
        seed=config.seed,
        device=device,
        workers=config.workers,
        augmentation=augmentation_of(config),
    )


def augmentation_of(config: RunConfig) -> Augmentation:
    """What ``config`` does to training images."""
    return Augmentation(
        crop_scale=config.crop_scale,
        trivial=config.trivial_augment,
        erasing=config.random_erasing,
        mixup=config.mixup,
        cutmix=config.cutmix,
    )
