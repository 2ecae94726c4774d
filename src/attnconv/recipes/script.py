"""`attnconv.fit`: the trainer of `attnconv train`, for people who have a script with a network and images in it."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnconv import checks, extensions
from attnconv.data import ForeignLoader, ImageData, data_of_datasets
from attnconv.data.files import FileOptions
from attnconv.models import set_recompute
from attnconv.recipes.network import channels_of, make_network, require_fit, require_network, transfer_note
from attnconv.recipes.training import AttentionObserver, has_batch_norm, train_on
from attnconv.surgery.network import first_conv
from attnconv.surgery.steps import checked_steps
from attnconv.train.config import YOUR_DATASET, RunConfig
from attnconv.train.device import fabric_of
from attnconv.train.fit import fit as train_network
from attnconv.train.processes import Ranks
from attnconv.train.run_folder import RunFolder

# Options of a run that say where its images are, which a script has.
OF_IMAGES = ("data", "data_dir", "train_subset", "presize", "cache_images")
OF_NAMES = ("model", "model_options", "attention", "init_from", "freeze_epochs")  # of networks that are made here
# Options that act on single images, which float tensors and loaders do not let them; and those that a loader has taken.
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
    """Train a network on images of your own and leave the run in a folder, as `attnconv train` does.

    evaluate, predict, explain, export and hub take the folder; of a network that no name makes again, `load_trained`
    and these commands are told ``model`` anew. A run on Datasets that was stopped goes on exactly, as every run. Of
    foreign loaders exactness is the loader's own: an epoch is drawn under its own seed, and inside an epoch the batches
    before are read again and dropped; what transforms draw without workers depends on what ran before.

    Args:
        model: a module, (B, C, H, W) -> logits (B, K), which is trained in place; or what `create_model` takes.
        train: a map-style Dataset of (image, label), whose images are of Pillow, uint8, or float tensors, which are
            taken as preprocessed: neither varied nor normalised; or a loader of batches of float images and labels.
        val: likewise; with Datasets None if ``val_split`` is given.
        out: folder of the run.
        epochs: passes over the training images.
        classes: names of the classes in the order of the labels; the Dataset's own, or numbers, if None.
        resume: go on with the run in ``out``.
        progress: show a line an epoch on stderr.
        options: fields of `RunConfig`, such as batch_size, optimizer, lr; model_options, attention, init_from and
            freeze_epochs of a network by name.
    Returns:
        What result.json holds.
    Raises:
        InputError: as a run; an option that a script has no use for, or that cannot act on such images; something else
            than such images.
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
    elif config.recompute_attention and not set_recompute(network):
        raise checks.InputError(f"recompute_attention needs attention layers, and {config.model} has none")
    if hasattr(train, "__getitem__"):
        data = _data(config, train, val, classes)
        if data.prepared:
            _refuse(options, OF_SINGLE_IMAGES, "float tensors are taken as they are")
        if network is None:
            data = data.with_channels(channels_of(config, data.channels))
        elif data.channels == 1 and getattr(first_conv(network), "in_channels", 1) == 3:
            data = data.with_channels(3)
        return train_on(data, config, folder.path, fabric, network=network, resume=resume, progress=progress)
    if ranks.world > 1:
        raise checks.InputError(f"{ranks.world} processes need Datasets, of which each reads its part; got a loader")
    _refuse(options, (*OF_LOADERS, *OF_SINGLE_IMAGES), "a loader makes its batches itself")
    if val is None:
        raise checks.InputError("a loader for training needs one for validation: val is None")
    meta = _meta_of_batches(network, ForeignLoader(val, device=fabric.device, training=False), classes)
    taken_over, notes = (), []
    if network is None:
        network, transfer = make_network(config, meta, fresh=fresh)
        notes, taken_over = transfer_note(transfer), transfer.taken_over if transfer else ()
    else:
        require_fit(network, config.model, meta)
    shared = {"device": fabric.device, "seed": config.seed, "num_classes": len(meta["classes"])}
    at_least = 2 * config.accumulate if has_batch_norm(network) else 1
    return train_network(
        network,
        ForeignLoader(train, training=True, at_least=at_least, **shared),
        ForeignLoader(val, training=False, **shared),
        config=config,
        out=folder.path,
        meta=meta,
        taken_over=taken_over,
        observer=AttentionObserver(),
        fabric=fabric,
        resume=resume,
        notes=notes,
        progress=progress,
    )


def _config(model: Any, options: dict[str, Any]) -> RunConfig:
    """Return the configuration of the run, which names the network as far as it has a name."""
    if isinstance(model, nn.Module):
        for name in OF_NAMES:
            if name in options:
                raise checks.InputError(
                    f"{name} is for a network by name, and this one is made: attnconv.surgery puts attention into it"
                )
        if (blueprint := getattr(model, "blueprint", None)) is not None:
            checked_steps(blueprint.attention, layers=True)  # a layer without a name could not be read back
            options |= {
                "model": blueprint.name,
                "model_options": blueprint.options,
                "attention": blueprint.attention,
            }
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
    """Raise InputError if one of ``names`` is among the ``options``, where it would do nothing."""
    for name in names:
        if name in options:
            raise checks.InputError(f"{name} has no effect here: {reason}; leave it out")


def _data(config: RunConfig, train: Any, val: Any, classes: Sequence[str] | None) -> ImageData:
    options = FileOptions(skip_bad_images=config.skip_bad_images, val_split=config.val_split, seed=config.seed)
    return data_of_datasets(YOUR_DATASET, train, val, classes=classes, image_size=config.image_size, options=options)


def _meta_of_batches(model: nn.Module | None, loader: ForeignLoader, classes: Sequence[str] | None) -> dict[str, Any]:
    """Return what a checkpoint keeps of images that a foreign loader gives."""
    if (first := next(loader.epoch(0), None)) is None:
        raise checks.InputError("the loader for validation gives no batch")
    images, _ = first
    if classes is None:
        if model is None:
            raise checks.InputError("classes must name the outputs, which a loader does not")
        with torch.no_grad():
            modes = {module: module.training for module in model.modules()}
            count = model.eval()(images.to(next(model.parameters()).device)).shape[1]
            for module, training in modes.items():
                module.training = training
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
