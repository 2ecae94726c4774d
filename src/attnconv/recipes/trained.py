"""A trained network read back, from whatever kind of file or folder holds it, with all that is needed to use it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnconv import checks
from attnconv.export import ExportedNetwork, is_exported, load_exported
from attnconv.export.facts import blueprint_of, checked_meta
from attnconv.models.hub import folder
from attnconv.models.hub.methods import HubNetwork
from attnconv.models.hub.planned import remade
from attnconv.recipes.origin import config_of, origin, origin_of_file, scores_of, shareable
from attnconv.train.checkpoint import load_checkpoint
from attnconv.train.config import YOUR_FOLDER, RunConfig
from attnconv.train.device import choose_device


@dataclass(frozen=True)
class Trained:
    """A network in eval mode on its device, the run it comes from, and the facts of its images."""

    model: nn.Module
    config: RunConfig
    meta: dict[str, Any]  # of ImageData.meta(): classes, channels, image_size, mean, std, ...
    device: torch.device
    checkpoint: Path
    scores: dict[str, Any] = field(default_factory=dict)  # how good it is, where it comes from, as far as is known

    def require_layers(self, doing: str) -> None:
        """Pass if the network has its layers still, which ``doing``, a command, needs; else InputError."""
        if isinstance(self.model, ExportedNetwork):
            raise checks.InputError(
                f"{self.checkpoint} is a program of operators, without layers; {doing} takes a run, a checkpoint or a "
                "safetensors file"
            )


def load_trained(path: Path, *, checkpoint: str = "best", device: str = "auto", trust: bool = False) -> Trained:
    """The network of a run, of a checkpoint, of a file of `attnconv export`, or of a folder of ``save_pretrained``.

    What it says of itself when it is saved or pushed, ``model.meta`` and ``model.provenance``, is filled in.

    Args:
        path: RUN, RUN/best.pt, a .safetensors, .onnx or .pt2 file, or a folder with config.json and model.safetensors.
        checkpoint: which of a run folder's checkpoints, "best" or "last".
        device: as RunConfig's.
        trust: read a .pt2 file too, which can run code that is in it; nothing else runs any.
    Raises:
        InputError: there is none, or it cannot be read, it holds another network's weights, or is a .pt2 file without
            ``trust``.
    """
    checks.one_of("checkpoint", checkpoint, ("best", "last"))
    path = Path(path)
    if is_exported(path) and not path.is_dir():
        return _from_exported(path, device, trust)
    if not path.exists():
        raise checks.InputError(f"{path} is neither a run folder nor a checkpoint: there is no such file or folder")
    file = path / f"{checkpoint}.pt" if path.is_dir() else path
    if not file.exists() and folder.is_saved(path):
        return _from_saved(path, device)
    if not file.exists():
        raise checks.InputError(f"{path} holds no {file.name}; a run writes it at the end of its first epoch")
    where = choose_device(device)
    state = load_checkpoint(file)
    config = RunConfig.from_dict(state["config"], source=str(file))
    meta = _meta(state["meta"], file)
    model = _of_run(config, meta, state, file)
    provenance = origin(config, state, file)
    if isinstance(model, HubNetwork):
        model.meta, model.provenance = {**told(meta), "name": shareable(config).data}, provenance
    return Trained(model.to(where).eval(), config, meta, where, file, scores_of(provenance))


def _of_run(config: RunConfig, meta: dict[str, Any], state: dict[str, Any], file: Path) -> nn.Module:
    """The network of the checkpoint ``state``, its weights the average where there is one.

    Raises:
        InputError: the weights are another network's, larger than the file, or not finite numbers.
    """
    average = state["average"] or {}
    if not isinstance(average, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in average.values()):
        raise checks.InputError(f"{file} is damaged: its 'average' holds something other than tensors")
    weights = {**state["model"], **average}
    if sum(tensor.numel() * tensor.element_size() for tensor in weights.values()) > file.stat().st_size:
        raise checks.InputError(f"{file} is damaged: its tensors are larger than the file")
    try:
        blueprint = blueprint_of(config.to_dict(), meta)
    except checks.InputError as error:
        raise checks.InputError(f"{file}: {error}") from None
    return remade(blueprint, weights, source=str(file), otherwise=f"{file} is a checkpoint of {config.model!r}")


def _from_exported(path: Path, device: str, trust: bool) -> Trained:
    found = load_exported(path, trust=trust)
    if isinstance(found.model, ExportedNetwork):
        if device not in ("auto", "cpu"):
            raise checks.InputError(f"{path} runs on the CPU here; --device {device} is for runs and safetensors")
        device = "cpu"
    where = choose_device(device)
    # A file that names no data is of no data set, not of RunConfig's default one.
    config = RunConfig.from_dict({"data": YOUR_FOLDER, **found.facts.config}, source=str(path))
    if isinstance(found.model, HubNetwork):
        found.model.meta = {**told(found.facts.meta), "name": config.data}
        found.model.provenance = origin_of_file(config, found.facts.scores)
    return Trained(found.model.to(where), config, found.facts.meta, where, path, found.facts.scores)


def _from_saved(path: Path, device: str) -> Trained:
    where = choose_device(device)
    file = path / folder.CONFIG
    model = folder.read(file, path / folder.WEIGHTS)
    if model.meta is None:
        raise checks.InputError(f"{file} does not say what its images are: the network was not saved from a run")
    model.meta = _meta(model.meta, file)
    assert model.blueprint is not None
    for what, said, has in (
        ("names of classes", len(model.meta["classes"]), model.blueprint.num_classes),
        ("image channels", model.meta["channels"], model.blueprint.in_channels),
    ):
        if said != has:
            raise checks.InputError(f"{file} is damaged: its meta has {said} {what}, and its network is of {has}")
    config = config_of(model.provenance, model.blueprint.name, dict(model.blueprint.options), source=str(file))
    scores = scores_of(model.provenance)
    return Trained(model.to(where), config, model.meta, where, path / folder.WEIGHTS, scores)


def told(meta: dict[str, Any]) -> dict[str, Any]:
    """What of ``meta`` a network says that leaves this machine: nothing of the files trained on."""
    return {key: value for key, value in meta.items() if key != "images"}


def _meta(meta: Any, file: Path) -> dict[str, Any]:
    """``meta`` of ``file``, all in it that an image needs before the network can be used."""
    try:
        return checked_meta(meta)
    except checks.InputError as error:
        raise checks.InputError(f"{file} does not say what its images are: {error}") from None
