"""A training run and a search for its learning rate: network, data and training put together.

Letters: B batch, C channels, K classes, H rows, W columns.
"""

import copy
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from attnconv import checks
from attnconv.data import DATA_SETS, Augmentation, ImageData, batches, load_data
from attnconv.layers.attention import Attention, LogitChange, attention_activity, attention_off
from attnconv.models import create_model, list_models, set_recompute
from attnconv.models.registry import check_options
from attnconv.train.config import RunConfig
from attnconv.train.device import fabric_of, float32_products, make_engine, make_fabric
from attnconv.train.evaluate import Loader, evaluate
from attnconv.train.fit import fit
from attnconv.train.processes import Ranks
from attnconv.train.run_folder import RunFolder
from attnconv.train.track import require_service

if TYPE_CHECKING:
    from attnconv.train.lr_find import LrCurve

ANY_SIZE = 224  # pixels, where the data's own size is not known yet


def default_out(config: RunConfig, recipe: str | None = None) -> Path:
    """Return where a run goes if nobody says: runs/MODEL-DATA-seedN, or runs/RECIPE-MODEL-seedN."""
    if recipe is not None:
        return Path("runs") / f"{recipe}-{config.model}-seed{config.seed}"
    return Path("runs") / f"{config.model}-{Path(config.data).name}-seed{config.seed}"


def require_known(config: RunConfig) -> None:
    """Raise InputError unless network, options, augmentation and data exist; nothing is loaded or computed."""
    check_options(config.model, config.model_options)
    with torch.device("meta"):
        create_model(config.model, num_classes=10, image_size=config.image_size or ANY_SIZE, **config.model_options)
    augmentation_of(config)
    if config.data not in DATA_SETS and not Path(os.path.expanduser(config.data)).is_dir():
        raise checks.InputError(
            f"{config.data!r} is neither a data set nor an existing folder; {checks.nearest(config.data, DATA_SETS)}"
        )


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


def loaders_of(config: RunConfig, data: ImageData, device: torch.device) -> tuple[batches.Loader, batches.Loader]:
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


def make_network(config: RunConfig, meta: dict[str, Any]) -> nn.Module:
    """Return the network of ``config`` for the images that ``meta`` describes, its weights drawn from the seed.

    Args:
        config: known to `require_known`.
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


def dense_models() -> list[str]:
    """Return the names of networks that give each pixel a class."""
    return list_models(dense=True)


class AttentionObserver:
    """The trainer's Observer: gammas and shares each epoch, at the end the network without its attention.

    It says nothing of a network that has no attention layers.
    """

    def epoch(self, model: nn.Module, images: Tensor) -> dict[str, float]:
        return attention_activity(model, images)

    def end(self, model: nn.Module, loader: Loader) -> dict[str, Any]:
        """Return ``attention_off``: the scores with attention switched off, and how far that moves the answers.

        top1, top5 and, of pixels, miou in percent; logits_moved as a share of the logits' norm; predictions_changed in
        percent of the images, or of their pixels.
        """
        if not any(isinstance(module, Attention) for module in model.modules()):
            return {}
        compared = OnAndOff(model)
        scores = evaluate(compared, loader)
        found = {"top1": scores.top1, "top5": scores.top5, **({} if scores.miou is None else {"miou": scores.miou})}
        moved = compared.moved
        found |= {"logits_moved": moved.logits_moved, "predictions_changed": moved.predictions_changed}
        return {"attention_off": found}


class OnAndOff(nn.Module):
    """``model`` with its attention switched off; ``moved`` compares each answer with that of the whole network.

    Shapes: (B, C, H, W) -> logits (B, K) or (B, K, H, W).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.moved = LogitChange()

    def forward(self, x: Tensor) -> Tensor:
        whole = self.model(x)
        with attention_off(self.model):
            off = self.model(x)
        self.moved.add(whole, off)
        return off
