"""One training run, from its configuration to its result."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnconv.models import create_model
from attnconv.models.registry import check_options
from attnconv.recipes.images import images_of, loaders_of
from attnconv.train.config import RunConfig
from attnconv.train.device import choose_device
from attnconv.train.fit import fit
from attnconv.train.run_folder import RunFolder


def default_out(config: RunConfig) -> Path:
    """Where a run goes if nobody says: runs/MODEL-DATA-seedN below the current folder."""
    return Path("runs") / f"{config.model}-{Path(config.data).name}-seed{config.seed}"


def run(config: RunConfig, out: Path, *, resume: bool = False, progress: bool = True) -> dict[str, Any]:
    """Train as ``config`` says and leave the run in the folder ``out``; what result.json holds.

    Raises:
        InputError: what `load_data`, `create_model` and `fit` refuse; ``out`` is then as it was.
    """
    if not resume:
        RunFolder(out).require_free()  # fit asks again, but loading the data can take minutes
    device = choose_device(config.device)
    data = images_of(config)
    train, val = loaders_of(config, data, device)
    model = network(config, data.meta())
    require_fit(model, data.channels, data.image_size)
    return fit(model, train, val, config=config, out=out, meta=data.meta(), resume=resume, progress=progress)


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


def require_fit(model: nn.Module, channels: int, image_size: tuple[int, int]) -> None:
    """Raise what ``model`` raises for images of this size, on the meta device, before anything is written."""
    with torch.no_grad():
        copy.deepcopy(model).to("meta")(torch.empty(2, channels, *image_size, device="meta"))
