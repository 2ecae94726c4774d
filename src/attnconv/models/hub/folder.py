"""A network as config.json and model.safetensors, and back; needs safetensors alone.

config.json: the network's `Blueprint`; sha256, of model.safetensors; version, of attnconv; and, of a trained network,
meta and provenance. A file of safetensors has no checksum of its own, so that a flipped bit in a weight would pass.
"""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from attnconv import __version__, checks, regular_file
from attnconv.layers.augmented_conv import AugmentedConvNd
from attnconv.models.fold import folded
from attnconv.models.hub.blueprint import Blueprint
from attnconv.models.hub.methods import HubNetwork
from attnconv.models.registry import create_model
from attnconv.weights import Shapes, difference, open_safetensors, shapes_of

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def is_saved(path: Path) -> bool:
    """Whether ``path`` is a folder that looks like one of `write`."""
    return (path / CONFIG).exists() and (path / WEIGHTS).exists()


def write(model: HubNetwork, folder: Path) -> None:
    """Write both files into ``folder``, which exists.

    Raises:
        InputError: ``model`` is not what its blueprint makes, has no memory, or the files cannot be written.
    """
    blueprint = current(model)
    config = blueprint.to_config()
    state = model.state_dict()
    if any(tensor.is_meta for tensor in state.values()):
        raise checks.InputError(f"{blueprint.name} cannot be saved from the meta device: it holds no weights there")
    if problem := difference(shapes_of(state), wanted_shapes(blueprint)):
        raise checks.InputError(
            f"this network is not what create_model({blueprint.name!r}) makes, {problem}; "
            "save its state_dict() with torch.save instead"
        )
    safetensors = checks.require("safetensors.torch", extra="hub")
    temporary = folder / f"{WEIGHTS}.tmp"
    try:
        safetensors.save_file({k: v.detach().contiguous() for k, v in state.items()}, temporary, {"format": "pt"})
        config |= {"sha256": _sha256(temporary), "version": __version__}
        for key, value in (("meta", model.meta), ("provenance", model.provenance)):
            if value is not None:
                config[key] = value
        text = json.dumps(config, indent=2) + "\n"
        os.replace(temporary, folder / WEIGHTS)
        (folder / CONFIG).write_text(text, encoding="utf-8")
    except Exception as error:  # OSError, or what safetensors makes of it
        temporary.unlink(missing_ok=True)
        raise checks.InputError(f"cannot write a network to {folder}: {checks.first_line(error)}") from error


def read(config_file: Path, weights_file: Path) -> HubNetwork:
    """The network of the two files, in eval mode on the CPU; nothing in them is run.

    Raises:
        InputError: a file is missing, damaged, of another library or of another network than the other.
    """
    config = _read_config(config_file)
    blueprint = Blueprint.from_config(config, source=str(config_file))
    try:
        wanted = wanted_shapes(blueprint)  # on the meta device: what it asks for may be larger than any memory
    except checks.InputError as error:
        raise checks.InputError(f"{config_file}: {error}") from None
    state = _read_weights(weights_file, config.get("sha256"), wanted, blueprint.name)
    with torch.random.fork_rng(devices=[]):  # the weights that are drawn are thrown away
        model = make(blueprint)
    model.load_state_dict(state, assign=True)  # which keeps their dtype
    model.meta, model.provenance = config.get("meta"), config.get("provenance")
    return model.eval()


def make(blueprint: Blueprint) -> HubNetwork:
    """The network of ``blueprint``, newly drawn; InputError as `create_model`, and if a resized layer is not there."""
    model = create_model(
        blueprint.name,
        num_classes=1 if blueprint.num_classes == 0 else blueprint.num_classes,
        in_channels=blueprint.in_channels,
        image_size=blueprint.image_size,
        **blueprint.options,
    )
    if blueprint.num_classes == 0 or blueprint.global_pool != "avg":
        reset = getattr(model, "reset_classifier", None)
        if reset is None:
            raise checks.InputError(f"{blueprint.name} has no classifier to leave out: num_classes must be at least 1")
        reset(blueprint.num_classes, blueprint.global_pool)
    layers = _with_tables(model)
    for name, size in (blueprint.feat_sizes or {}).items():
        layers[checks.one_of(f"layer in feat_sizes of {blueprint.name}:", name, layers)].resize_feat_size(size)
    model.blueprint = replace(blueprint, folded=blueprint.folded and any(map(is_parametrized, model.modules())))
    return folded(model) if model.blueprint.folded else model


def current(model: HubNetwork) -> Blueprint:
    """The blueprint of ``model`` as it now is: its classifier may be another one, its tables resized."""
    if model.blueprint is None:
        raise checks.InputError(f"this {type(model).__name__} was not made by create_model, and cannot say how to be")
    blueprint = replace(
        model.blueprint,
        num_classes=getattr(model, "num_classes", model.blueprint.num_classes),
        global_pool=getattr(model, "global_pool", "avg"),
        feat_sizes=None,
    )
    return with_tables_of(model, blueprint)


def with_tables_of(model: nn.Module, blueprint: Blueprint) -> Blueprint:
    """``blueprint``, which has no feat_sizes, with those of ``model`` that are not what it makes."""
    with torch.device("meta"):
        plain = _with_tables(make(blueprint))
    sizes = {name: layer.feat_size for name, layer in _with_tables(model).items() if layer.feat_size is not None}
    resized = {name: size for name, size in sizes.items() if name in plain and plain[name].feat_size != size}
    return replace(blueprint, feat_sizes=resized or None)


def wanted_shapes(blueprint: Blueprint) -> Shapes:
    """Those of the weights and buffers, found without memory for them; InputError as `make`."""
    with torch.device("meta"):
        return shapes_of(make(blueprint).state_dict())


def _with_tables(model: nn.Module) -> dict[str, AugmentedConvNd]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, AugmentedConvNd) and module.position == "relative"
    }


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(regular_file.read_text(file))
    except FileNotFoundError:
        raise checks.InputError(f"{file.parent} holds no {file.name}, which save_pretrained writes") from None
    except OSError as error:
        raise checks.InputError(f"cannot read {file}: {error.strerror or error}") from error
    except ValueError as error:  # of JSON, or of the encoding
        raise checks.InputError(f"{file} is damaged: {checks.first_line(error)}") from None
    for key in ("meta", "provenance"):
        if isinstance(config, dict) and not isinstance(config.get(key), (dict, type(None))):
            raise checks.InputError(f"{file}: {key!r} must be dict, got {type(config[key]).__name__}")
    return config


def _read_weights(file: Path, sha256: Any, wanted: Shapes, name: str) -> dict[str, Tensor]:
    """The tensors in ``file``, compared with the checksum and, before any is read, with what is wanted."""
    if not file.exists():
        raise checks.InputError(f"{file.parent} holds no {file.name}, which save_pretrained writes")
    with open_safetensors(file, extra="hub") as opened:
        if sha256 is not None and _sha256(file) != sha256:
            raise checks.InputError(f"{file} is damaged or was changed: config.json has another checksum for it")
        if problem := difference(opened.shapes, wanted):
            raise checks.InputError(f"{file} does not hold the weights of {name}: {problem}")
        return opened.tensors()


def _sha256(path: Path) -> str:
    with regular_file.opened(path, at_most=regular_file.WEIGHTS) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
