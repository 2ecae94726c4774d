"""One training run, from its configuration to its result."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnconv import checks
from attnconv.data import ImageData
from attnconv.models import create_model, list_models, set_recompute
from attnconv.models.registry import check_options
from attnconv.recipes.attention_observer import AttentionObserver
from attnconv.recipes.images import images_of, loaders_of
from attnconv.train.config import RunConfig
from attnconv.train.device import fabric_of
from attnconv.train.fit import fit
from attnconv.train.processes import Ranks
from attnconv.train.run_folder import RunFolder
from attnconv.train.track import require_service


def default_out(config: RunConfig, recipe: str | None = None) -> Path:
    """Where a run goes if nobody says: runs/MODEL-DATA-seedN below the current folder, or runs/RECIPE-MODEL-seedN."""
    if recipe is not None:
        return Path("runs") / f"{recipe}-{config.model}-seed{config.seed}"
    return Path("runs") / f"{config.model}-{Path(config.data).name}-seed{config.seed}"


def run(
    config: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    progress: bool = True,
    profile: bool = False,
    ready: Callable[[nn.Module, ImageData], None] | None = None,
) -> dict[str, Any]:
    """Train as ``config`` says and leave the run in the folder ``out``; what result.json holds.

    Args:
        profile: also say there, under "profile", where the time of a training step goes.
        ready: called in the first process once the network is made and its images are loaded, before any training.
    Raises:
        InputError: what `load_data`, `create_model` and `fit` refuse; ``out`` is then as it was.
    """
    check_options(config.model, config.model_options)  # rather now than after a download
    fabric = fabric_of(config)
    ranks = Ranks(fabric)
    if not resume:
        ranks.on_first(RunFolder(out).require_free)  # fit asks again, but loading the data can take minutes
        ranks.on_first(lambda: require_service(config))
    data = ranks.first_then_others(lambda: images_of(config))  # so that only one of them downloads
    train, val = loaders_of(config, data, fabric.device)
    for loader in (train, val):
        loader.order = loader.order.shard(ranks.rank, ranks.world)
    model = ranks.first_then_others(lambda: fitting_network(config, data))  # so that one says what does not fit
    if ready is not None and ranks.first:
        ready(model, data)
    return fit(
        model,
        train,
        val,
        config=config,
        out=out,
        meta=data.meta(),
        observer=AttentionObserver(),
        fabric=fabric,
        resume=resume,
        progress=progress,
        profile=profile,
    )


def fitting_network(config: RunConfig, data: ImageData) -> nn.Module:
    """The network of ``config`` for ``data``, to be trained; InputError if it cannot take its images."""
    model = network(config, data.meta())
    if config.recompute_attention and not set_recompute(model):
        raise checks.InputError(f"recompute_attention needs attention layers, and model {config.model!r} has none")
    require_fit(model, data, config)
    return model


def network(config: RunConfig, meta: dict[str, Any]) -> nn.Module:
    """The network of ``config`` for the classes and the image size in ``meta``, its weights drawn from the seed."""
    check_options(config.model, config.model_options)
    rows, columns = meta["image_size"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return create_model(
            config.model,
            num_classes=len(meta["classes"]),
            in_channels=meta["channels"],
            image_size=(rows, columns),
            **config.model_options,
        )


def require_fit(model: nn.Module, data: ImageData, config: RunConfig) -> None:
    """Raise what ``model`` raises for images of this size, on the meta device, before anything is written.

    Raises:
        InputError: also if it gives an answer an image where there is a label a pixel, or the other way round.
    """
    with torch.no_grad():
        answer = copy.deepcopy(model).to("meta")(torch.empty(2, data.channels, *data.image_size, device="meta"))
    if (answer.ndim == 4) != data.dense:
        label, answered = ("pixel", "image") if data.dense else ("image", "pixel")
        raise checks.InputError(
            f"data set {data.name!r} has a label for each {label}, and model {config.model!r} an answer for each "
            f"{answered}; models of pixels: {', '.join(list_models(dense=True))}"
        )
