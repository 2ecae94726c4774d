"""A trained network in one safetensors file: its weights, and in the header's texts all that is needed to use it.

Reading one runs no code of the file. Its checksum covers every byte: it tells damage and changes, not who wrote it.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from attnconv import checks
from attnconv.export.agreement import require_agreement
from attnconv.export.facts import CHECKSUM, Facts, blueprint_of, read_facts
from attnconv.export.network import Exported
from attnconv.export.written import Written, prepared_to
from attnconv.files import replacing
from attnconv.models.fold import folded
from attnconv.models.hub.blueprint import Blueprint
from attnconv.models.hub.planned import remade
from attnconv.models.hub.remake import wanted_shapes, with_tables_of
from attnconv.models.image_sizes import Sizes, require_covered
from attnconv.train.checksum import BLANK, sealed, verify_seal
from attnconv.weights import difference, open_safetensors, shapes_of


def save_weights(path: str | Path, weights: Mapping[str, Tensor], facts: Facts) -> None:
    """Write tensors, and the texts of ``facts`` beside them, to ``path``: wholly or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    with replacing(Path(path)) as file:
        file.write(file_of(weights, facts))


def file_of(weights: Mapping[str, Tensor], facts: Facts) -> bytes:
    """The bytes of such a file."""
    save = checks.require("safetensors.torch", extra="train").save
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    return sealed(save(tensors, {**facts.to_texts(), CHECKSUM: BLANK}))


def load_weights(path: str | Path) -> tuple[dict[str, Tensor], Facts]:
    """What `save_weights` wrote.

    Raises:
        InputError: the file is missing, damaged or changed, or not of attnconv.
    """
    path = Path(path)
    if not path.exists():
        raise checks.InputError(f"no safetensors file at {path}")
    with open_safetensors(path, extra="train") as file:
        facts = read_facts(file.texts, str(path))
        verify_seal(path, file.texts.get(CHECKSUM, ""))
        return file.tensors(), facts


def export_weights(
    model: nn.Module,
    path: str | Path,
    *,
    config: dict[str, Any],
    meta: dict[str, Any],
    image_size: int | None = None,
    scores: Mapping[str, Any] | None = None,
) -> Written:
    """Write the weights of ``model``, spectral norm folded, and prove that the network built from them is the same.

    Args:
        model: one of `attnconv.models`, which ``config`` names; its position tables may be resized. Other networks are
            saved by `save_weights`.
        path: the file, ending in .safetensors.
        config: the run's: "model" and "model_options" are read.
        meta: of its images.
        image_size: side that images are prepared to, in pixels, if not meta's.
        scores: as in `Facts`.
    Raises:
        InputError: config or meta name another network, the tables do not cover ``image_size``, or no room to write.
        DisagreementError: the answers differ; nothing is kept.
    """
    path = Path(path)
    plain, facts = folded(model), prepared_to(Facts(config, meta, scores=dict(scores or {})), image_size)
    channels, (rows, columns) = facts.meta["channels"], facts.meta["image_size"]
    blueprint = _own_blueprint(plain, facts)
    require_covered(plain, channels, (rows, columns))
    facts = replace(facts, feat_sizes=blueprint.feat_sizes)
    with replacing(path) as file:
        file.write(file_of(plain.state_dict(), facts))
        file.flush()
        differences = require_agreement(
            plain,
            load_network(file.name).model,
            sizes=Sizes((rows, rows), (columns, columns)),
            facts=facts,
            what="the file",
        )
    return Written(path, None, differences)


def load_network(path: str | Path) -> Exported:
    """The network of a safetensors file of `export_weights`, in eval mode on the CPU.

    Raises:
        InputError: as `load_weights`, or its weights are not those of the network that its config names.
    """
    path = Path(path)
    weights, facts = load_weights(path)
    try:
        blueprint = replace(blueprint_of(facts.config, facts.meta), folded=True, feat_sizes=facts.feat_sizes)
    except (checks.InputError, TypeError) as error:
        raise checks.InputError(f"{path}: {error}") from None
    otherwise = f"{path} does not hold the weights of {blueprint.name!r}"
    model = remade(blueprint, weights, source=str(path), otherwise=otherwise)
    return Exported(model.eval(), facts, path)


def _own_blueprint(plain: nn.Module, facts: Facts) -> Blueprint:
    """That of ``plain``, a folded network, its tables' sizes included; InputError if ``facts`` name another one."""
    try:
        blueprint = replace(blueprint_of(facts.config, facts.meta), folded=True, feat_sizes=facts.feat_sizes)
    except checks.InputError:
        raise checks.InputError(
            f"safetensors are for networks that are built again by name, and config's 'model' is "
            f"{facts.config.get('model')!r}; export_onnx and export_program take any network, save_weights its weights"
        ) from None
    try:
        blueprint = with_tables_of(plain, blueprint)
        wanted = wanted_shapes(blueprint)
    except (checks.InputError, TypeError) as error:
        raise checks.InputError(f"config: {error}") from None
    if problem := difference(shapes_of(plain.state_dict()), wanted):
        raise checks.InputError(f"this network is not the {blueprint.name!r} of config and meta: {problem}")
    return blueprint
