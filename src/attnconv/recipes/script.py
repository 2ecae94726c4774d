"""`attnconv.fit`: the trainer of `attnconv train` for a script with its own network and images."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnconv import checks, extensions
from attnconv.data import ForeignLoader, data_of_datasets
from attnconv.data.files import FileOptions
from attnconv.layers.activity import evaluation_mode
from attnconv.recipes.network import channels_of, make_network, require_network
from attnconv.recipes.training import has_batch_norm, train_on
from attnconv.surgery.network import first_conv
from attnconv.surgery.steps import checked_steps
from attnconv.train.config import YOUR_DATASET, RunConfig
from attnconv.train.device import fabric_of
from attnconv.train.fit import fit as train_network
from attnconv.train.processes import Ranks
from attnconv.train.run_folder import RunFolder

# Options of a run that a script has no use for: they name the images.
OF_IMAGES = ("data", "data_dir", "train_subset", "presize", "cache_images")
OF_NAMES = ("model", "model_options", "attention", "init_from", "freeze_epochs")  # of networks by name
# Options without effect: on float tensors and loaders, those that act on single images; on loaders, these too.
OF_SINGLE_IMAGES = ("crop_scale", "trivial_augment", "random_erasing")
OF_LOADERS = ("batch_size", "workers", "image_size", "val_split", "skip_bad_images", "mixup", "cutmix")


def fit(
    model: nn.Module | str | Callable[..., nn.Module],
    train: Any,
    val: Any = None,
    *,
    out: str | Path,
    epochs: int,
    classes: Sequence[str] | None = None,
    resume: bool = False,
    progress: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Train a network on your own images and write the run to a folder, as `attnconv train` does.

    evaluate, predict, explain, export and hub read the folder. If no name makes the network again, pass ``model`` to
    `load_trained` and --model to these commands. A stopped run on Datasets resumes exactly. With your own loaders, each
    epoch is drawn under its own seed, and a run that resumes inside an epoch reads its first batches again and drops
    them; random transforms without workers depend on what ran before.

    Args:
        model: a module, (B, C, H, W) -> logits (B, K), which is trained in place; or a name or function for
            `create_model`.
        train: a map-style Dataset of (image, label) with Pillow images, uint8 tensors or float tensors (taken as
            preprocessed, without augmentation and normalisation); or a loader of batches of float images and labels.
        val: likewise; for Datasets, None with ``val_split``.
        out: folder of the run.
        epochs: passes over the training images.
        classes: names of the classes in the order of the labels; by default the Dataset's own, or numbers.
        resume: continue the run in ``out``.
        progress: print a line an epoch on stderr.
        options: fields of `RunConfig`, such as batch_size, optimizer and lr; for a network by name also model_options,
            attention, init_from and freeze_epochs.
    Returns:
        The contents of result.json.
    Raises:
        InputError: as a run; an option without effect on these images; images of another kind.
    """
    for name in options:
        checks.one_of(
            "option of fit:", name, [f.name for f in dataclasses.fields(RunConfig) if f.name not in OF_IMAGES]
        )
    config = _config(model, {**options, "epochs": epochs})
    fabric, folder = fabric_of(config), RunFolder(Path(out))
    ranks, network = Ranks(fabric), model if isinstance(model, nn.Module) else None
    if not resume:
        ranks.on_first(folder.require_free)
    fresh = not (resume and folder.holds_checkpoint())
    if network is None:
        require_network(config, fresh=fresh)
    if hasattr(train, "__getitem__"):
        reading = FileOptions(skip_bad_images=config.skip_bad_images, val_split=config.val_split, seed=config.seed)
        settings: Any = {"classes": classes, "image_size": config.image_size, "options": reading}
        data = data_of_datasets(YOUR_DATASET, train, val, **settings)
        if data.prepared:
            _refuse(options, OF_SINGLE_IMAGES, "float tensors are taken as they are")
        if network is None:
            data = data.with_channels(channels_of(config, data.channels))
        elif data.channels == 1 and getattr(first_conv(network), "in_channels", 1) == 3:
            data = data.with_channels(3)
        return train_on(data, config, folder.path, fabric, network=network, resume=resume, progress=progress)
    if ranks.world > 1:
        raise checks.InputError(f"{ranks.world} processes need Datasets, so that each reads its part; got a loader")
    _refuse(options, (*OF_LOADERS, *OF_SINGLE_IMAGES), "a loader makes its batches itself")
    if val is None:
        raise checks.InputError("a loader for training needs one for validation: val is None")
    meta = _meta_of_batches(network, ForeignLoader(val, device=fabric.device, training=False), classes)
    network, taken_over, notes = make_network(config, meta, given=network, fresh=fresh)
    shared = {"device": fabric.device, "seed": config.seed, "num_classes": len(meta["classes"])}
    at_least = 2 * config.accumulate if has_batch_norm(network) else 1
    loaders: Any = (
        ForeignLoader(train, training=True, at_least=at_least, **shared),
        ForeignLoader(val, training=False, **shared),
    )
    return train_network(
        network,
        *loaders,
        config=config,
        out=folder.path,
        meta=meta,
        taken_over=taken_over,
        fabric=fabric,
        resume=resume,
        notes=notes,
        progress=progress,
    )


def _config(model: Any, options: dict[str, Any]) -> RunConfig:
    """Return the configuration of the run, with the network's name if it has one."""
    if isinstance(model, nn.Module):
        for name in OF_NAMES:
            if name in options:
                raise checks.InputError(
                    f"{name} is for a network by name, and this one is made: attnconv.surgery puts attention into it"
                )
        if (blueprint := getattr(model, "blueprint", None)) is not None:
            checked_steps(blueprint.attention, layers=True)  # a layer without a name cannot be read back
            options |= {"model": blueprint.name, "model_options": blueprint.options, "attention": blueprint.attention}
        else:
            options["model"] = f"{type(model).__module__}:{type(model).__qualname__}"
    elif callable(model):
        options["model"] = extensions.remember_factory(model)
    elif isinstance(model, str):
        options["model"] = model
        if extensions.is_factory(model):
            extensions.import_factory(model)
    else:
        raise checks.InputTypeError(f"model must be a module, a name or a function, got {type(model).__name__}")
    return RunConfig.from_dict({"data": YOUR_DATASET, **options}, source="fit")


def _refuse(options: dict[str, Any], names: Iterable[str], reason: str) -> None:
    """Raise InputError if one of ``names``, which would have no effect, is among the ``options``."""
    for name in names:
        if name in options:
            raise checks.InputError(f"{name} has no effect here: {reason}; leave it out")


def _meta_of_batches(model: nn.Module | None, loader: ForeignLoader, classes: Sequence[str] | None) -> dict[str, Any]:
    """Return the ``meta`` of a checkpoint for images of a user's loader."""
    if (first := next(loader.epoch(0), None)) is None:
        raise checks.InputError("the loader for validation gives no batch")
    images, _ = first
    if classes is None:
        if model is None:
            raise checks.InputError("classes must name the outputs, which a loader does not")
        with torch.no_grad(), evaluation_mode(model):
            count = model(images.to(next(model.parameters()).device)).shape[1]
        classes = [str(number) for number in range(count)]
    channels, size = images.shape[1], list(images.shape[2:])
    return {
        "name": YOUR_DATASET,
        "classes": list(classes),
        "channels": channels,
        "image_size": size,
        "mean": [0.0] * channels,
        "std": [1 / 255] * channels,
        "resize_ratio": 1.0,
        "prepared": True,
        "images": {},
    }
