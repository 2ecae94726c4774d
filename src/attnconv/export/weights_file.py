"""Weights as a safetensors file, with what is needed to build the network around them again.

Reading one runs no code of the file. A checksum over all of it, which the format lacks, tells a changed file.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnconv import checks
from attnconv.export.agreement import require_agreement
from attnconv.export.facts import Facts, read_facts
from attnconv.export.fold import folded
from attnconv.export.network import Exported
from attnconv.export.sizes import Sizes
from attnconv.export.written import Written
from attnconv.models import create_model
from attnconv.train.atomic import replacing

CHECKSUM = "attnconv_sha256"


def save_weights(path: Path, weights: Mapping[str, Tensor], *, config: dict[str, Any], meta: dict[str, Any]) -> None:
    """Write tensors, and in the file's metadata config and meta, to ``path``: wholly or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    save = checks.require("safetensors.torch", extra="train").save
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    texts = Facts(config, meta).to_texts()
    data = save(tensors, {**texts, CHECKSUM: checksum(tensors, texts)})
    with replacing(path) as file:
        file.write(data)


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """Weights, config and meta of a file of `save_weights`.

    Raises:
        InputError: the file is missing, damaged or changed, or not of `attnconv export`.
    """
    safetensors = checks.require("safetensors", extra="train")
    if not path.is_file():
        raise checks.InputError(f"no safetensors file at {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            texts = dict(file.metadata() or {})
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
    except Exception as error:  # SafetensorError, OSError, and what torch makes of odd shapes
        reason = " ".join(str(error).split())[:200]
        raise checks.InputError(f"{path} is damaged or no safetensors file: {reason}") from None
    facts = read_facts(texts, str(path))
    if texts.pop(CHECKSUM, "") != checksum(weights, texts):
        raise checks.InputError(f"{path} was changed: its contents do not have the checksum that was saved with them")
    return weights, facts.config, facts.meta


def export_weights(
    model: nn.Module, path: Path, *, config: dict[str, Any], meta: dict[str, Any], image_size: int | None = None
) -> Written:
    """Write the weights of ``model``, spectral norm folded, and prove that the network built from them is the same.

    Args:
        model: one of `attnconv.models`, which ``config`` names; other networks are saved by `save_weights`.
        path: the file, ending in .safetensors.
        config: the run's: "model" and "model_options" are read.
        meta: of its images.
        image_size: must be meta's, if given: the position tables are weights.
    Raises:
        InputError: ``image_size`` is another, config names another network, or no room to write.
        DisagreementError: the answers differ; nothing is kept.
    """
    if image_size is not None and [image_size] * 2 != list(meta["image_size"]):
        raise checks.InputError(
            f"safetensors hold the weights as they are, for images of {meta['image_size'][0]} x "
            f"{meta['image_size'][1]}; attnconv.surgery.resize_feat_size(model, {image_size}) would change them"
        )
    rows, columns = meta["image_size"]
    plain = folded(model)
    again = network_of(plain.state_dict(), config, meta, source="config")
    differences = require_agreement(
        plain,
        again,
        sizes=Sizes((rows, rows), (columns, columns)),
        channels=meta["channels"],
        image_size=meta["image_size"],
        what="the file",
    )
    save_weights(path, plain.state_dict(), config=config, meta=meta)
    load_weights(path)
    return Written(path, None, differences)


def load_network(path: Path) -> Exported:
    """The network of a safetensors file of `export_weights`, in eval mode on the CPU.

    Raises:
        InputError: as `load_weights`, or its weights are not those of the network that its config names.
    """
    weights, config, meta = load_weights(path)
    return Exported(network_of(weights, config, meta, source=str(path)), Facts(config, meta), path)


def network_of(
    weights: Mapping[str, Tensor], config: Mapping[str, Any], meta: Mapping[str, Any], *, source: str
) -> nn.Module:
    """The network that ``config`` names, folded, with these weights; InputError, naming ``source``, if they differ."""
    try:
        with torch.random.fork_rng(devices=[]):
            model = create_model(
                config.get("model", ""),
                num_classes=len(meta["classes"]),
                in_channels=meta["channels"],
                image_size=tuple(meta["image_size"]),
                **config.get("model_options", {}),
            )
    except (checks.InputError, TypeError) as error:
        raise checks.InputError(f"{source}: {error}") from None
    model = folded(model)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if wanted != given:
        name = min(n for n in wanted.keys() | given.keys() if wanted.get(n) != given.get(n))
        raise checks.InputError(
            f"{source} does not hold the weights of {config.get('model')!r}: {name!r} is {given.get(name)} in it and "
            f"{wanted.get(name)} in this network"
        )
    model.load_state_dict(dict(weights))
    return model


def checksum(weights: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    """SHA-256 of texts and tensors, whatever their order in the file."""
    digest = hashlib.sha256(json.dumps(dict(sorted(texts.items()))).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(memoryview(tensor.contiguous().flatten().view(torch.uint8).numpy()))  # pyright: ignore[reportArgumentType]
    return digest.hexdigest()
