"""The network of a run, the one place where it is made."""

import copy
from typing import Any

import torch
from torch import nn

from attnconv import checks
from attnconv.models import create_model, list_models, set_recompute
from attnconv.models.registry import check_options
from attnconv.train.config import RunConfig

ANY_SIZE = 224  # pixels, where the data's own size is not known yet


def dense_models() -> list[str]:
    """Return the names of networks that give each pixel a class."""
    return list_models(dense=True)


def require_network(config: RunConfig) -> None:
    """Raise InputError unless the network of ``config`` can be made with its options; it is made without memory."""
    check_options(config.model, config.model_options)
    size = config.image_size or ANY_SIZE
    with torch.device("meta"):
        create_model(config.model, num_classes=10, image_size=size, **config.model_options)


def make_network(config: RunConfig, meta: dict[str, Any]) -> nn.Module:
    """Return the network of ``config`` for the images that ``meta`` describes, its weights drawn from the seed.

    Args:
        config: known to `require_network`.
        meta: of `ImageData.meta`.
    Raises:
        InputError: it cannot take these images, or there is nothing in it to recompute.
    """
    rows, columns = meta["image_size"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = create_model(
            config.model,
            num_classes=len(meta["classes"]),
            in_channels=meta["channels"],
            image_size=(rows, columns),
            **config.model_options,
        )
    if config.recompute_attention and not set_recompute(model):
        raise checks.InputError(f"recompute_attention needs attention layers, and model {config.model!r} has none")
    _require_fit(model, config, meta)
    return model


def _require_fit(model: nn.Module, config: RunConfig, meta: dict[str, Any]) -> None:
    """Raise what ``model`` raises for images of this size, on the meta device, before anything is written.

    Raises:
        InputError: also if it gives an answer an image where there is a label a pixel, or the other way round.
    """
    dense = meta.get("dense", False)
    with torch.no_grad():
        images = torch.empty(2, meta["channels"], *meta["image_size"], device="meta")
        answer = copy.deepcopy(model).to("meta")(images)
    if (answer.ndim == 4) != dense:
        label, answered = ("pixel", "image") if dense else ("image", "pixel")
        raise checks.InputError(
            f"data set {meta['name']!r} has a label for each {label}, and model {config.model!r} an answer for each "
            f"{answered}; models of pixels: {', '.join(dense_models())}"
        )
