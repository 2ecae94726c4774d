"""A trained network in one safetensors file: its weights, and in the header's texts all that is needed to use it.

Reading one runs no code of the file. Its checksum covers every byte: it tells damage and changes, not who wrote it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnconv import checks
from attnconv.export.agreement import require_agreement
from attnconv.export.facts import CHECKSUM, Facts, read_facts
from attnconv.export.fold import folded
from attnconv.export.network import Exported
from attnconv.export.sizes import Sizes
from attnconv.export.written import Written
from attnconv.models import create_model
from attnconv.train.atomic import replacing
from attnconv.train.checksum import BLANK, sealed, verify_seal
from attnconv.weights import difference, open_safetensors, shapes_of


def save_weights(path: Path, weights: Mapping[str, Tensor], facts: Facts) -> None:
    """Write tensors, and the texts of ``facts`` beside them, to ``path``: wholly or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    with replacing(path) as file:
        file.write(file_of(weights, facts))


def file_of(weights: Mapping[str, Tensor], facts: Facts) -> bytes:
    """The bytes of such a file."""
    save = checks.require("safetensors.torch", extra="train").save
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    return sealed(save(tensors, {**facts.to_texts(), CHECKSUM: BLANK}))


def load_weights(path: Path) -> tuple[dict[str, Tensor], Facts]:
    """What `save_weights` wrote.

    Raises:
        InputError: the file is missing, damaged or changed, or not of attnconv.
    """
    if not path.is_file():
        raise checks.InputError(f"no safetensors file at {path}")
    with open_safetensors(path, extra="train") as file:
        facts = read_facts(file.texts, str(path))
        verify_seal(path, file.texts.get(CHECKSUM, ""))
        return file.tensors(), facts


def export_weights(
    model: nn.Module,
    path: Path,
    *,
    config: dict[str, Any],
    meta: dict[str, Any],
    image_size: int | None = None,
    scores: Mapping[str, Any] | None = None,
) -> Written:
    """Write the weights of ``model``, spectral norm folded, and prove that the network built from them is the same.

    Args:
        model: one of `attnconv.models`, which ``config`` names; other networks are saved by `save_weights`.
        path: the file, ending in .safetensors.
        config: the run's: "model" and "model_options" are read.
        meta: of its images.
        image_size: must be meta's, if given: the position tables are weights.
        scores: as in `Facts`.
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
    plain, facts = folded(model), Facts(config, meta, scores=dict(scores or {}))
    network_of(plain.state_dict(), facts, source="config")  # a config of another network is named, and not a file
    with replacing(path) as file:
        file.write(file_of(plain.state_dict(), facts))
        file.flush()
        differences = require_agreement(
            plain,
            load_network(Path(file.name)).model,
            sizes=Sizes((rows, rows), (columns, columns)),
            channels=meta["channels"],
            image_size=meta["image_size"],
            what="the file",
        )
    return Written(path, None, differences)


def load_network(path: Path) -> Exported:
    """The network of a safetensors file of `export_weights`, in eval mode on the CPU.

    Raises:
        InputError: as `load_weights`, or its weights are not those of the network that its config names.
    """
    weights, facts = load_weights(path)
    return Exported(network_of(weights, facts, source=str(path)), facts, path)


def network_of(weights: Mapping[str, Tensor], facts: Facts, *, source: str) -> nn.Module:
    """The network that ``facts`` name, folded, with these weights; InputError, naming ``source``, if they differ."""

    def drawn() -> nn.Module:
        model = create_model(
            facts.config.get("model", ""),
            num_classes=len(facts.meta["classes"]),
            in_channels=facts.meta["channels"],
            image_size=tuple(facts.meta["image_size"]),
            **facts.config.get("model_options", {}),
        )
        return folded(model)

    try:
        with torch.device("meta"):  # what the file asks for may be larger than any memory
            wanted = shapes_of(drawn().state_dict())
    except (checks.InputError, TypeError) as error:
        raise checks.InputError(f"{source}: {error}") from None
    if problem := difference(shapes_of(weights), wanted):
        raise checks.InputError(f"{source} does not hold the weights of {facts.config['model']!r}: {problem}")
    with torch.random.fork_rng(devices=[]):
        model = drawn()
    model.load_state_dict(dict(weights))
    return model
