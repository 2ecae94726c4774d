"""Load trained networks from runs, checkpoints, saved folders and exported files, with all that is needed to use them.

Each comes with its origin: the command that trained it, its recipe and its scores, without any folder of the machine
that trained it. The package ships one such network, the example.
"""

import contextlib
import dataclasses
import functools
import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnconv import checks, extensions, files
from attnconv.data import ImageData, load_data
from attnconv.data.load import HUGGING_FACE, TORCHVISION, is_data_set
from attnconv.export import ExportedNetwork, is_exported, load_exported
from attnconv.models.registry import find
from attnconv.models.saved import CONFIG, WEIGHTS, build, checked_meta, is_saved, read
from attnconv.recipes.catalog import find_recipe, list_recipes
from attnconv.train.checkpoint import load_checkpoint
from attnconv.train.config import YOUR_DATASET, YOUR_FOLDER, RunConfig, without_folders
from attnconv.train.device import choose_device
from attnconv.train.run_folder import MAY_DIFFER, RunFolder
from attnconv.weights import shapes_of

# Options that a run may choose and still follow a recipe.
FREE = {*MAY_DIFFER, "data_dir", "cache_images", "model", "model_options", "attention", "seed"}
SCORES = ("top1", "top5", "loss", "miou")  # with "val_" before them in a run's history
MADE_WITH = ("attnconv", "torch", "device", "commit")  # of result.json
EXAMPLE = Path(__file__).parent / "example_network"
PHOTOS = (("raccoon.jpg", "raccoon", (240, 452)),)  # point: row, column


@dataclass(frozen=True)
class Trained:
    """A network in eval mode on its device, with the options of its run and the facts of its images."""

    model: nn.Module
    config: RunConfig
    meta: dict[str, Any]  # of ImageData.meta(): classes, channels, image_size, mean, std, ...
    device: torch.device
    checkpoint: Path
    scores: dict[str, Any] = field(default_factory=dict)  # of `scores_of`

    def require_layers(self, doing: str) -> None:
        """Raise InputError if the network is an exported program without layers, which the command ``doing`` needs."""
        if isinstance(self.model, ExportedNetwork):
            raise checks.InputError(
                f"{self.checkpoint} is a program of operators, without layers; {doing} takes a run, a checkpoint or a "
                "folder of `attnconv hub save`"
            )


def load_trained(
    path: Path,
    *,
    checkpoint: str = "best",
    device: str = "auto",
    model: Callable[..., nn.Module] | None = None,
    imports: Sequence[str] = (),
    trust: bool = False,
) -> Trained:
    """Return the network of a run, a checkpoint, a folder of ``save_pretrained`` or a file of `attnconv export`.

    ``model.meta`` and ``model.provenance``, which describe it when it is saved or pushed, are filled in. Nothing that
    the files name is imported.

    Args:
        path: RUN, RUN/best.pt, a folder with config.json and model.safetensors, or an .onnx or .pt2 file.
        checkpoint: which of a run folder's checkpoints, "best" or "last".
        device: as RunConfig's.
        model: the function that makes the network, if it is your own code.
        imports: modules to import first, which register networks, layers or data.
        trust: read .pt2 files too, which can run code; no other file can.
    Raises:
        InputError: the file is missing or damaged, holds another network's weights, or is a .pt2 file without
            ``trust``.
    """
    checks.one_of("checkpoint", checkpoint, ("best", "last"))
    path = Path(path)
    extensions.import_modules(imports)
    if is_exported(path) and not path.is_dir():
        exported = load_exported(path, trust=trust)
        if device not in ("auto", "cpu"):
            raise checks.InputError(f"{path} runs on the CPU here; --device {device} is for runs and saved networks")
        return _trained(exported, path, "cpu", source=path)
    if not path.exists():
        raise checks.InputError(f"{path} is neither a run folder nor a checkpoint: there is no such file or folder")
    file = path / f"{checkpoint}.pt" if path.is_dir() else path
    if file.exists():
        return _of_checkpoint(file, device, model)
    if not is_saved(path):
        raise checks.InputError(f"{path} holds no {file.name}; a run writes it at the end of its first epoch")
    return _trained(read(path, model=model), path / WEIGHTS, device, source=path / CONFIG)


def _trained(model: Any, file: Path, device: str, *, source: Path) -> Trained:
    """Return the network in ``file`` as its config in ``source`` describes it."""
    meta = model.meta = _meta(model.meta, source)
    if isinstance(model, ExportedNetwork):
        name, options, attention = (model.config[key] for key in ("model", "options", "attention"))
    else:
        name, options, attention = model.blueprint.name, model.blueprint.options, model.blueprint.attention
        model.float()  # a network may be saved in half precision, and images are float32
        if meta["channels"] != (channels := model.blueprint.in_channels):
            raise checks.InputError(
                f"{source} is damaged: its meta has {meta['channels']} image channels, and its network is of {channels}"
            )
    run: dict[str, Any] = {} if name is None else {"model": name, "model_options": options, "attention": attention}
    if model.provenance is not None:
        run = model.provenance.get("config")
        if not isinstance(run, dict):
            raise checks.InputError(f"{source}: 'provenance' must hold the options of a run under 'config'")
    # A file that names no data is of no data set, not of RunConfig's default one.
    config = shareable(RunConfig.from_dict({"data": YOUR_FOLDER, **run}, source=str(source)))
    where = choose_device(device)
    return Trained(model.to(where), config, meta, where, file, scores_of(model.provenance))


def _of_checkpoint(file: Path, device: str, factory: Callable[..., nn.Module] | None) -> Trained:
    where = choose_device(device)
    if file.suffix == ".safetensors":
        raise checks.InputError(f"{file} holds weights alone; give the folder that holds it and config.json")
    state = load_checkpoint(file)
    config, meta = RunConfig.from_dict(state["config"], source=str(file)), _meta(state["meta"], file)
    if not _in_its_run(file):  # a checkpoint alone names no folder of this machine
        config = shareable(config)
    if factory is not None:
        extensions.remember_factory(factory, config.model)
    average = state["average"] or {}
    if not isinstance(average, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in average.values()):
        raise checks.InputError(f"{file} is damaged: its 'average' holds something other than tensors")
    weights = {**state["model"], **average}
    if sum(tensor.numel() * tensor.element_size() for tensor in weights.values()) > file.stat().st_size:
        raise checks.InputError(f"{file} is damaged: its tensors are larger than the file")
    with checks.prefixed(str(file)):
        options = {**find(config.model).options, **config.model_options}
    provenance = provenance_of(config, state, file)
    described = {
        "model": config.model,
        "num_classes": len(meta["classes"]),
        "in_channels": meta["channels"],
        "image_size": meta["image_size"],
        "options": options,
        "attention": config.attention,
        # Without the files and folders of the machine that trained it.
        "meta": {k: v for k, v in meta.items() if k != "images"} | {"name": provenance["config"]["data"]},
        "provenance": provenance,
    }
    otherwise = f"{file} is a checkpoint of {config.model!r}"
    model = build(described, shapes_of(weights), lambda: weights, source=str(file), otherwise=otherwise)
    return Trained(model.to(where), config, meta, where, file, scores_of(provenance))


def _in_its_run(checkpoint: Path) -> bool:
    return checkpoint.suffix == ".pt" and RunFolder(checkpoint.parent).config.exists()


def _meta(meta: Any, file: Path) -> dict[str, Any]:
    """Return ``meta`` of ``file``; InputError if it does not say how images are prepared."""
    with checks.prefixed(f"{file} does not say what its images are"):
        if meta is None:
            raise checks.InputError("the network was not saved from a run")
        return checked_meta(meta)


def images_for(
    trained: Trained,
    *,
    data: str | None = None,
    data_dir: Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    skip_bad_images: bool = False,
    or_else: str = "name it",
) -> ImageData:
    """Return images to score ``trained`` on, normalised as in training: ``data``, or those that it was trained on.

    A saved network, or a checkpoint outside its run's folder, can only name a data set of this package or of an
    installed one; no network names one of torchvision or of the Hub.

    Args:
        data, data_dir, image_size, skip_bad_images: as `load_data`; the run's own if None. Its ``val_split`` holds out
            the same images again, also from ``data`` without validation images.
        or_else: remedy in the message about a network that does not name its images.
    Raises:
        InputError: as `load_data`; the images have other classes; the network does not name its images; or
            ``val_split`` would hold out other images than in the run.
    """
    config, classes = trained.config, trained.meta["classes"]
    reasons = {
        YOUR_DATASET: "was trained on the images of a script",
        YOUR_FOLDER: "does not say in which folder its images are",
    }
    own = _in_its_run(trained.checkpoint)
    if config.data.startswith((HUGGING_FACE, TORCHVISION)):
        reasons[config.data] = f"names {config.data!r}, which is not loaded because a file says so"
    elif not own and not is_data_set(config.data):
        reasons.setdefault(config.data, f"names {config.data!r}, which is no data set here")
    if data is None and config.data in reasons:
        raise checks.InputError(f"{trained.checkpoint} {reasons[config.data]}; {or_else}")
    is_own = data in (None, config.data)
    own_size = config.image_size if is_own else tuple(trained.meta["image_size"])
    load = functools.partial(
        load_data,
        data or config.data,
        data_dir=data_dir or config.data_dir,
        image_size=own_size if image_size is None else image_size,
        skip_bad_images=skip_bad_images,
        presize=config.presize,
        seed=config.seed,
    )
    split = config.val_split if is_own else None
    try:
        found = load(val_split=split)
    except checks.InputError as error:
        if is_own or config.val_split is None:
            raise
        split = config.val_split  # another folder of the run's images, without val/ as well
        try:
            found = load(val_split=split)
        except checks.InputError:
            raise error from None
    then = trained.meta.get("images")  # missing from a saved network
    if split is not None and isinstance(then, dict) and then.get("validation") != found.val.fingerprint:
        raise checks.InputError(
            f"{found.name!r} has other images than {trained.checkpoint} was trained on: val_split {split} would hold "
            "out other ones, which it may have seen in training; give images with a val/ of their own"
        )
    if list(found.classes) != classes:
        unknown = sorted(set(found.classes) - set(classes))
        what = f"{unknown[0]!r} is not among them" if unknown else "not the same ones in the same order"
        raise checks.InputError(f"{found.name!r} has {len(found.classes)} classes, the network {len(classes)}: {what}")
    found = found.with_channels(trained.meta["channels"])
    return dataclasses.replace(found, mean=tuple(trained.meta["mean"]), std=tuple(trained.meta["std"]))


@dataclass(frozen=True)
class ExampleImage:
    """A photo that the package ships; PHOTOS.md beside it names its source and licence."""

    path: Path
    label: str
    point: tuple[int, int]  # row and column of a pixel on the object


def load_example(device: str = "auto") -> Trained:
    """Return the packaged network, a small augmented Wide-ResNet trained on CIFAR-100, as `load_trained`."""
    return load_trained(EXAMPLE, device=device)


def example_images() -> list[ExampleImage]:
    """Return the packaged photos, each of a class that the packaged network knows."""
    return [ExampleImage(EXAMPLE / name, label, point) for name, label, point in PHOTOS]


def provenance_of(config: RunConfig, state: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    """Return config, command, recipe (or None), scores (or None) and made_with of a checkpoint, as plain values.

    Args:
        config: of the run.
        state: what is in the checkpoint.
        checkpoint: its file; the run's result.json is beside it, once it is finished.
    """
    config = shareable(config)
    row = state["history"][-1] if state["history"] and not state["step_in_epoch"] else None
    result: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, TypeError):
        result = dict(checks.from_json(files.read_text(checkpoint.parent / "result.json")))
    return {
        "config": config.to_dict(),
        "command": None if config.data == YOUR_DATASET else command(config),
        "recipe": recipe_of(config),
        "scores": row and {"epoch": row["epoch"], **{f"val_{s}": row[f"val_{s}"] for s in SCORES if f"val_{s}" in row}},
        "made_with": {name: result[name] for name in MADE_WITH if result.get(name)},
    }


def scores_of(provenance: dict[str, Any] | None) -> dict[str, Any]:
    """Return epoch, top1, top5, loss, miou and made_with of a network, or where it was ``imported`` from."""
    provenance = provenance or {}
    scores, made_with = (provenance.get(key) or {} for key in ("scores", "made_with"))
    imported = {"imported": provenance["imported"]} if "imported" in provenance else {}
    return {**{name.removeprefix("val_"): value for name, value in scores.items()}, **made_with, **imported}


def shareable(config: RunConfig) -> RunConfig:
    """Return ``config`` without folders of a machine: "FOLDER" stands for one of images."""
    return RunConfig(**without_folders(config.to_dict()))


def recipe_of(config: RunConfig) -> str | None:
    """Return the recipe that ``config`` follows, of its own network if there is one; None if there is none."""
    fixed = {f.name for f in dataclasses.fields(RunConfig)} - FREE
    found = [r for r in list_recipes() if all(getattr(r.config, n) == getattr(config, n) for n in fixed)]
    network = config.model, config.model_options
    found.sort(key=lambda recipe: (recipe.config.model, recipe.config.model_options) != network)
    return found[0].name if found else None


def command(config: RunConfig) -> str:
    """Return the `attnconv train` command of ``config``, based on its recipe if it has one."""
    words, base = [], RunConfig()
    if (name := recipe_of(config)) is None:
        words += ["--model", config.model, "--data", config.data]
    else:
        recipe = find_recipe(name)
        words += ["--recipe", name, *(["--data", config.data] if recipe.needs_data else [])]
        if config.model != recipe.config.model:
            words += ["--model", config.model]
        base = RunConfig(**recipe.under({"model": config.model, "data": config.data}))
    for f in dataclasses.fields(RunConfig):
        value, default = getattr(config, f.name), getattr(base, f.name)
        flag = f"--{f.name.replace('_', '-')}"
        if f.name in ("model", "data") or value == default or value is None:
            continue
        if f.name == "model_options":
            changed = {k: v for k, v in value.items() if k not in default or default[k] != v}
            words += [word for k, v in changed.items() for word in ("--option", f"{k}={json.dumps(v)}")]
        elif f.name == "attention":
            words += [flag, json.dumps(value)]
        elif isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            words += [flag, "x".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return shlex.join(["attnconv", "train", *words])
