"""A network as config.json and model.safetensors, and back; needs safetensors alone.

config.json: the network's `Blueprint`; sha256, of model.safetensors; version, of attnconv; and, of a trained network,
meta and provenance. A file of safetensors has no checksum of its own, so that a flipped bit in a weight would pass.
"""

import contextlib
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import torch

from attnconv import __version__, checks, files
from attnconv.files import locked, replacing, sync_folder
from attnconv.models.hub.blueprint import Blueprint
from attnconv.models.hub.methods import HubNetwork
from attnconv.models.hub.planned import planned
from attnconv.models.hub.remake import current, make, wanted_shapes
from attnconv.models.hub.said import require_classes, require_provenance, without_foreign_classes
from attnconv.weights import difference, open_safetensors, shapes_of, unfit

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# Weights that wait for their config.json, and halves of them.
_WAITING = re.compile(r"model-[0-9a-f]{16}\.safetensors(\.[0-9a-f]{8}\.tmp)?")


def is_saved(path: Path) -> bool:
    """True if ``path`` is a folder that looks like one of `write`."""
    return (path / CONFIG).exists()


def write(model: HubNetwork, folder: Path) -> None:
    """Write both files into ``folder``, which exists; killed at any moment, it holds what it held or the new network.

    The one step that counts is that of config.json, which names its weights by their checksum: before it they lie in
    the folder under a name of their own, and after it they take the place of the old ones. Between the two, a
    program that reads the folder by other means than `read` may see the old weights under the new config.json.

    Raises:
        InputError: ``model`` is not what its blueprint makes, has no memory, or the files cannot be written; another
            process is at work in the folder.
    """
    blueprint = current(model)
    config = blueprint.to_config()
    meta = without_foreign_classes(model.meta, blueprint.num_classes)
    state = model.state_dict()
    if any(tensor.is_meta for tensor in state.values()):
        raise checks.InputError(f"{blueprint.name} cannot be saved from the meta device: it holds no weights there")
    if problem := difference(shapes_of(state), wanted_shapes(blueprint)):
        raise checks.InputError(
            f"this network is not what create_model({blueprint.name!r}) makes, {problem}; "
            "save its state_dict() with torch.save instead"
        )
    save = checks.require("safetensors.torch", extra="hub").save
    try:
        weights: bytes = save({k: v.detach().cpu().contiguous() for k, v in state.items()}, {"format": "pt"})
        config |= {"sha256": hashlib.sha256(weights).hexdigest(), "version": __version__}
        for key, value in (("meta", meta), ("provenance", model.provenance)):
            if value is not None:
                config[key] = value
        text = json.dumps(config, indent=2) + "\n"
    except Exception as error:  # what safetensors and JSON cannot hold
        raise checks.InputError(f"cannot write a network to {folder}: {checks.first_line(error)}") from error
    try:
        with locked(folder):
            _exchange(folder, weights, text, config["sha256"])
    except OSError as error:
        raise checks.InputError(f"cannot write a network to {folder}: {error.strerror or error}") from error


def _exchange(folder: Path, weights: bytes, text: str, sha256: str) -> None:
    """Put new weights and the text of their config.json in the place of what ``folder`` holds."""
    _settle(folder)
    waiting = _waiting(folder, sha256)
    try:
        with replacing(waiting) as file:
            file.write(weights)
        with replacing(folder / CONFIG) as file:
            file.write(text.encode())
    except BaseException:
        if _checksum(folder) != sha256:
            waiting.unlink(missing_ok=True)
        raise
    os.replace(waiting, folder / WEIGHTS)
    sync_folder(folder)


def _settle(folder: Path) -> None:
    """Do what a process that was killed has left to do in ``folder``, and remove weights that no config.json names."""
    if (named := _checksum(folder)) and (waiting := _waiting(folder, named)).is_file():
        os.replace(waiting, folder / WEIGHTS)
    for path in folder.iterdir():
        if _WAITING.fullmatch(path.name):
            path.unlink()


def _waiting(folder: Path, sha256: str) -> Path:
    """Return where weights of this checksum are until those that they replace are out of use."""
    return folder / f"model-{sha256[:16]}.safetensors"


def _checksum(folder: Path) -> str | None:
    """Return that of the weights of config.json; None if there is none to go by."""
    with contextlib.suppress(checks.InputError):
        return _checksum_in(_read_config(folder / CONFIG))
    return None


def _checksum_in(config: Any) -> str | None:
    found = config.get("sha256") if isinstance(config, dict) else None
    return found if isinstance(found, str) and re.fullmatch("[0-9a-f]{64}", found) else None


def read(config_file: Path, weights_file: Path) -> HubNetwork:
    """The network of the two files, in eval mode on the CPU; nothing in them is run.

    Raises:
        InputError: a file is missing, damaged, of another library or of another network than the other.
    """
    config = _read_config(config_file)
    blueprint = Blueprint.from_config(config, source=str(config_file))
    require_classes(config.get("meta"), blueprint.num_classes, source=str(config_file))
    require_provenance(config.get("provenance"), source=str(config_file))
    if (named := _checksum_in(config)) and (waiting := _waiting(weights_file.parent, named)).is_file():
        weights_file = waiting  # a process was killed before they took the old ones' place
    if not weights_file.is_file():
        raise checks.InputError(f"{weights_file.parent} holds no {weights_file.name}, which save_pretrained writes")
    otherwise = f"{weights_file} does not hold the weights of {blueprint.name}"
    with open_safetensors(weights_file, extra="hub") as opened:
        wanted = planned(blueprint, opened.shapes, source=str(config_file), otherwise=otherwise)
        if config.get("sha256") is not None and files.sha256(weights_file) != config["sha256"]:
            raise checks.InputError(
                f"{weights_file} is damaged or was changed: config.json has another checksum for it"
            )
        state = opened.tensors()
    if problem := unfit(state, wanted):
        raise checks.InputError(f"{otherwise}: {problem}")
    with torch.random.fork_rng(devices=[]):  # the weights that are drawn are thrown away
        model = make(blueprint)
    model.load_state_dict(state, assign=True)  # which keeps their dtype
    model.meta, model.provenance = config.get("meta"), config.get("provenance")
    return model.eval()


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = checks.from_json(files.read_text(file))
    except FileNotFoundError:
        raise checks.InputError(f"{file.parent} holds no {file.name}, which save_pretrained writes") from None
    except OSError as error:
        raise checks.InputError(f"cannot read {file}: {error.strerror or error}") from error
    except ValueError as error:  # of JSON, or of the encoding
        raise checks.InputError(f"{file} is damaged: {checks.first_line(error)}") from None
    return config
