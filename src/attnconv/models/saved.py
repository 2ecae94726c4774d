"""Saved networks: a folder with config.json, the description, and model.safetensors, the weights.

config.json has the keys of KEYS. A saved network is untrusted: nothing in it is run, and the network is built on the
meta device, without memory, and compared with the header of the weights before memory is allocated.
"""

import contextlib
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from attnconv import __version__, checks, files
from attnconv.extensions import remember_factory
from attnconv.files import locked, replacing, sync_folder
from attnconv.layers.attention import Attention
from attnconv.models.registry import build_model
from attnconv.surgery.steps import checked_steps
from attnconv.weights import Shapes, difference, open_safetensors, shapes_of, unfit

if TYPE_CHECKING:
    from attnconv.models.network import HubNetwork

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = "attnconv 1"
# model to attention: the arguments of `create_model`; model is None for other networks. meta: facts about the images,
# as `attnconv.data` gives them. provenance: how it was trained. feat_sizes: of resized tables, by layer. global_pool:
# "" for a network that returns its map. sha256: of the weights, since safetensors files have no checksum.
KINDS: dict[str, tuple[type, ...]] = {
    "model": (str, NoneType),
    "num_classes": (int,),
    "in_channels": (int,),
    "image_size": (list,),
    "options": (dict,),
    "attention": (list,),
    "meta": (dict, NoneType),
    "meta.classes": (list, NoneType),
    "provenance": (dict, NoneType),
    **{f"provenance.{name}": (dict, NoneType) for name in ("config", "scores", "made_with", "imported")},
    **{f"provenance.{name}": (str, NoneType) for name in ("command", "recipe")},
}
KEYS = ("format", *(key for key in KINDS if "." not in key), "feat_sizes", "global_pool", "sha256", "version")
PREPARATION = ("channels", "image_size", "mean", "std", "resize_ratio")  # of meta, to prepare an image

LARGEST = 1 << 16  # integer in a network's name or options
# Building a network makes temporary tensors: replaced classifiers, resized tables, constrained weights. These limits
# apply to the tensors and the numbers in them: TIMES as many as in the file, and some more.
TIMES, MORE_TENSORS, MORE_NUMBERS = 4, 64, 1 << 24
# Weights that wait for their config.json, and temporary files of them.
_WAITING = re.compile(r"model-[0-9a-f]{16}\.safetensors(\.[0-9a-f]{8}\.tmp)?")


def is_saved(path: Path) -> bool:
    """True if ``path`` looks like a folder of `write`."""
    return (path / CONFIG).exists()


def write(model: nn.Module, folder: Path) -> None:
    """Write both files into ``folder``; if the process is killed, the folder has the old network or the new one.

    The decisive step is the replacement of config.json, which identifies its weights by checksum. The new weights have
    a temporary name before it and replace the old ones after it. In between, a program that does not use `read` may see
    the old weights with the new config.json.

    Raises:
        InputError: `create_model` does not make this network, or it is on the meta device; safetensors is not
            installed; the files cannot be written, or another process works in the folder.
        OSError: the folder cannot be created or accessed.
    """
    config, state = describe(model), model.state_dict()
    if any(tensor.is_meta for tensor in state.values()):
        raise checks.InputError(f"{config['model']} cannot be saved from the meta device: it holds no weights there")
    with torch.device("meta"):
        wanted = shapes_of(make(config).state_dict())
    if problem := difference(shapes_of(state), wanted):
        raise checks.InputError(
            f"this network is not what create_model({config['model']!r}) makes, {problem}; "
            "save its state_dict() with torch.save instead"
        )
    checks.require("safetensors", extra="hub")
    from safetensors.torch import save

    with checks.explained(f"cannot write a network to {folder}"):  # errors of safetensors and JSON
        weights: bytes = save({k: v.detach().cpu().contiguous() for k, v in state.items()}, {"format": "pt"})
        config |= {"sha256": hashlib.sha256(weights).hexdigest(), "version": __version__}
        text = json.dumps(config, indent=2) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        _exchange(folder, weights, text, config["sha256"])


def _exchange(folder: Path, weights: bytes, text: str, sha256: str) -> None:
    """Replace the weights and config.json in ``folder``."""
    # Finish the work of a killed process, and remove weights that no config.json names.
    if (waiting := _waiting(folder)).is_file():
        os.replace(waiting, folder / WEIGHTS)
    for path in folder.iterdir():
        if _WAITING.fullmatch(path.name):
            path.unlink()
    waiting = folder / f"model-{sha256[:16]}.safetensors"
    try:
        with replacing(waiting) as file:
            file.write(weights)
        with replacing(folder / CONFIG) as file:
            file.write(text.encode())
    except BaseException:
        if _waiting(folder) != waiting:
            waiting.unlink(missing_ok=True)
        raise
    os.replace(waiting, folder / WEIGHTS)
    sync_folder(folder)


def _waiting(folder: Path) -> Path:
    """Return the temporary path of the weights of the config.json in ``folder``."""
    with contextlib.suppress(checks.InputError):
        sha256 = _read_config(folder / CONFIG).get("sha256")
        if isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256):
            return folder / f"model-{sha256[:16]}.safetensors"
    return folder / WEIGHTS


def read(folder: Path, *, model: Callable[..., nn.Module] | None = None) -> "HubNetwork":
    """Return the network that `write` saved, in eval mode on the CPU.

    Args:
        folder: folder of `write`.
        model: the function that makes the network, if it is the user's own; no file causes an import.
    Raises:
        InputError: a file is missing, damaged or from another library, or the files do not match.
    """
    file, weights = folder / CONFIG, folder / WEIGHTS
    config = checked(_read_config(file), source=str(file))
    if model is not None:
        remember_factory(model, config["model"])
    if (waiting := _waiting(folder)).is_file():
        weights = waiting  # a process was killed before they took the old ones' place
    if not weights.exists():
        raise checks.InputError(f"{folder} holds no {weights.name}, which save_pretrained writes")
    otherwise = f"{weights} does not hold the weights of {config['model']}"
    with open_safetensors(weights, extra="hub") as (shapes, stored):

        def tensors() -> dict[str, Tensor]:
            if config.get("sha256") is not None and files.digest(weights) != config["sha256"]:
                raise checks.InputError(f"{weights} is damaged or was changed: config.json has another checksum for it")
            return stored()

        return build(config, shapes, tensors, source=str(file), otherwise=otherwise, keep_dtype=True)


def _read_config(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise checks.InputError(f"{file.parent} holds no {file.name}, which save_pretrained writes")
    config = files.parsed(file, checks.from_json)
    return config if isinstance(config, dict) else {}


def config_of(**values: Any) -> dict[str, Any]:
    """Return ``values`` as a config with its keys in order."""
    values |= {"format": FORMAT}
    return {key: values[key] for key in KEYS if key in values}


def describe(model: nn.Module) -> dict[str, Any]:
    """Return the config of ``model`` as it is now, with its current classifier and table sizes.

    Raises:
        InputError: `create_model` did not make it, or its options, meta or provenance are not plain values.
    """
    if (blueprint := getattr(model, "blueprint", None)) is None:
        raise checks.InputError(f"this {type(model).__name__} was not made by create_model and cannot be described")
    config = config_of(
        model=blueprint.name,
        num_classes=getattr(model, "num_classes", blueprint.num_classes),
        in_channels=blueprint.in_channels,
        image_size=list(blueprint.image_size),
        options=checks.plain(f"options of {blueprint.name}", blueprint.options),
        attention=checked_steps(blueprint.attention),
        meta=checks.plain("meta", getattr(model, "meta", None)),
        provenance=checks.plain("provenance", getattr(model, "provenance", None)),
    )
    meta = config["meta"]
    if meta and meta.get("classes") is not None and len(meta["classes"]) != config["num_classes"]:
        meta["classes"] = None  # of a classifier that was replaced
    if isinstance(pool := getattr(model, "global_pool", "avg"), str) and pool != "avg":
        config["global_pool"] = pool
    with torch.device("meta"):
        new = _tables(make(config))
    sizes = {name: layer.largest_map for name, layer in _tables(model).items()}
    if resized := {n: list(size or ()) for n, size in sizes.items() if n in new and new[n].largest_map != size}:
        config["feat_sizes"] = resized
    return checked(config, source=f"this {blueprint.name}")


def checked(config: Any, *, source: str) -> dict[str, Any]:
    """Return ``config`` of the file ``source`` after a check of the types of its keys.

    Raises:
        InputError: another library's file, another format, or a key that is unknown, missing or of another type.
    """
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else None
        raise checks.InputError(
            f"{source} describes no network of attnconv that this version reads: its 'format' is {found!r}, "
            f"not {FORMAT!r}"
        )
    for key in config:
        checks.one_of(f"key in {source}", key, KEYS)
    for key, kinds in KINDS.items():
        value = config
        for part in key.split("."):
            value = (value or {}).get(part)
        if not isinstance(value, kinds):
            raise checks.InputError(f"{source}: {key!r} must be {kinds[0].__name__}, got {value!r}")
    checked_steps(config["attention"], what=f"'attention' in {source}")
    checks.one_of(f"global_pool in {source}:", config.get("global_pool", "avg"), ("avg", ""))
    sizes = config.get("feat_sizes", {})
    if not isinstance(sizes, dict) or not all(isinstance(size, list) for size in sizes.values()):
        raise checks.InputError(f"{source}: 'feat_sizes' must give each layer a list of integers")
    names = (config["meta"] or {}).get("classes")
    if names is not None and len(names) != config["num_classes"]:
        raise checks.InputError(
            f"{source}: 'meta' has {len(names)} names of classes, and its network is of {config['num_classes']}"
        )
    for name, value in ((config["provenance"] or {}).get("scores") or {}).items():
        if name.startswith("val_"):
            checks.number(f"{source}: the score {name!r}", value)
    return config


def checked_meta(meta: Any) -> dict[str, Any]:
    """Return ``meta`` as plain values; raise InputError unless it describes how to prepare images."""
    if not isinstance(meta, Mapping):
        raise checks.InputTypeError(f"meta must hold names and values, got {type(meta).__name__}")
    for name in ("classes", *PREPARATION):
        if name not in meta:
            raise checks.InputError(f"meta lacks {name!r}; it needs classes, {', '.join(PREPARATION)}")
    # Arrays and numbers of NumPy and torch become Python's.
    found = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in meta.items()}
    found = checks.plain("meta", found)
    classes, channels = found["classes"], checks.integer("meta's 'channels'", found["channels"], at_least=1)
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise checks.InputTypeError(f"meta's 'classes' must be a list of names, got {classes!r}")
    found["image_size"] = list(checks.prepared_size("meta's 'image_size'", found["image_size"]))
    largest, most = max(found["image_size"]), checks.LARGEST_IMAGE
    found["resize_ratio"] = checks.number("meta's 'resize_ratio'", found["resize_ratio"])
    for name in ("mean", "std"):
        values = found[name]
        if not isinstance(values, list) or len(values) != channels:
            raise checks.InputError(f"meta's {name!r} must list one number per channel, {channels}, got {values!r}")
        found[name] = [checks.number(f"meta's {name!r}", value) for value in values]
    for name, least in (("std", min(found["std"])), ("resize_ratio", found["resize_ratio"])):
        if least <= 0:
            raise checks.InputError(f"meta's {name!r} must be above 0, got {found[name]!r}")
    if (side := largest * found["resize_ratio"]) > 2 * most:
        raise checks.InputError(
            f"meta's 'resize_ratio' must resize images to at most {2 * most} pixels per side, got {side:.3g}"
        )
    return found


def make(config: Mapping[str, Any]) -> nn.Module:
    """Return a new network of ``config``; raise InputError as `create_model`, for too large images, or a layer
    of ``feat_sizes`` that it lacks.
    """
    checks.prepared_size("image_size", config["image_size"])
    name, outputs, pool = config["model"], config["num_classes"], config.get("global_pool", "avg")
    settings = {key: config[key] for key in ("in_channels", "image_size", "attention", "options")}
    model, _ = build_model(name, num_classes=1 if outputs == 0 else outputs, **settings)
    if outputs == 0 or pool != "avg":
        if not hasattr(model, "reset_classifier"):
            raise checks.InputError(f"{name} has no classifier to leave out: num_classes must be at least 1")
        model.reset_classifier(outputs, pool)  # pyright: ignore[reportCallIssue]
    tables = _tables(model)
    for layer, size in config.get("feat_sizes", {}).items():
        tables[checks.one_of(f"layer in feat_sizes of {name}:", layer, tables)].resize_feat_size(tuple(size))
    return model


def _tables(model: nn.Module) -> dict[str, Attention]:
    """Return the layers with position tables by dotted name."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Attention)}
    return {name: layer for name, layer in layers.items() if layer.largest_map is not None}


def build(
    config: Mapping[str, Any],
    given: Shapes,
    tensors: Callable[[], Mapping[str, Tensor]],
    *,
    source: str,
    otherwise: str,
    keep_dtype: bool = False,
) -> "HubNetwork":
    """Return the network of ``config`` with the weights of ``tensors()``, in eval mode on the CPU.

    Args:
        config: as `checked`, or the part that `make` reads.
        given: shapes of the weights, compared before ``tensors`` is called.
        source: name of the config in messages.
        otherwise: beginning of the message for weights that differ.
        keep_dtype: give the network the dtypes of the weights.
    Raises:
        InputError: there is no such network, the weights are of another one, building it takes much more memory than
            they do, or a weight is not finite.
    """
    # Integers, also in names such as wide_resnet28_10, but not the digits of a fraction.
    for digits in re.findall(r"(?<![\d.])\d+(?![\d.])", json.dumps([config["model"], config["options"]])):
        if len(digits) > 9 or int(digits) > LARGEST:
            raise checks.InputError(
                f"{source}: numbers of a network's name and options are at most {LARGEST}, got {digits[:20]}"
            )
    # Options with wrong types or values can raise anything.
    with (
        checks.prefixed(source),
        checks.explained(f"{config['model']} cannot be built with these options"),
        torch.device("meta"),
        _counted(TIMES * len(given) + MORE_TENSORS) as numbers,
    ):
        wanted = make(config).state_dict()
    if problem := difference(given, shapes_of(wanted)):
        raise checks.InputError(f"{otherwise}: {problem}")
    if sum(numbers) > TIMES * sum(map(prod, given.values())) + MORE_NUMBERS:
        raise checks.InputError(f"{source}: building this {config['model']} takes far more memory than its weights do")
    weights = tensors()
    if problem := unfit(weights, wanted):
        raise checks.InputError(f"{otherwise}: {problem}")
    with torch.random.fork_rng(devices=[]):  # the initial weights are discarded
        model = make(config)
    model.load_state_dict(weights, assign=keep_dtype)
    model.meta, model.provenance = config.get("meta"), config.get("provenance")  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    return model.eval()  # pyright: ignore[reportReturnType]


@contextlib.contextmanager
def _counted(most: int) -> Iterator[list[int]]:
    """Yield the sizes of the tensors that modules of this thread receive; raise InputError above ``most`` tensors."""
    numbers: list[int] = []
    thread = threading.get_ident()

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        if tensor is None or threading.get_ident() != thread:
            return
        numbers.append(tensor.numel())
        if len(numbers) > most:
            raise checks.InputError("this network has far more tensors than its weights' file")

    hooks = register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count)
    try:
        yield numbers
    finally:
        for hook in hooks:
            hook.remove()
