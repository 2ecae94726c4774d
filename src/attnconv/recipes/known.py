"""Whether what a configuration names exists, without loading data or computing anything."""

import os
from pathlib import Path

import torch

from attnconv import checks
from attnconv.data import DATA_SETS
from attnconv.models import create_model, list_models
from attnconv.models.registry import check_options
from attnconv.recipes.images import augmentation_of
from attnconv.train.config import RunConfig

ANY_SIZE = 224  # pixels, where the data's own size is not known yet


def dense_models() -> list[str]:
    """Networks that give each pixel a class, by name."""
    return list_models(dense=True)


def require_known(config: RunConfig) -> None:
    """Raise InputError unless the network can be made with its options, and the data are a set's name or a folder."""
    check_options(config.model, config.model_options)
    augmentation_of(config)
    size = config.image_size or ANY_SIZE
    with torch.device("meta"):
        create_model(config.model, num_classes=10, image_size=size, **config.model_options)
    if config.data not in DATA_SETS and not Path(os.path.expanduser(config.data)).is_dir():
        raise checks.InputError(
            f"{config.data!r} is neither a data set nor an existing folder; {checks.nearest(config.data, DATA_SETS)}"
        )
