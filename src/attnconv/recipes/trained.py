"""A trained network read back, from whatever kind of file or folder holds it, with all that is needed to use it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnconv import checks
from attnconv.export import ExportedNetwork, is_exported, load_exported
from attnconv.models import HubNetwork
from attnconv.models.registry import model_options
from attnconv.models.saved import CONFIG, WEIGHTS, build, checked_meta, is_saved, read
from attnconv.recipes.provenance import config_of, provenance_of, scores_of
from attnconv.train.checkpoint import load_checkpoint
from attnconv.train.config import RunConfig
from attnconv.train.device import choose_device
from attnconv.weights import shapes_of


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
                "folder of `attnconv hub save`"
            )


def load_trained(path: Path, *, checkpoint: str = "best", device: str = "auto", trust: bool = False) -> Trained:
    """The network of a run, of a checkpoint, of a folder of ``save_pretrained``, or of a file of `attnconv export`.

    What it says of itself when it is saved or pushed, ``model.meta`` and ``model.provenance``, is filled in.

    Args:
        path: RUN, RUN/best.pt, a folder with config.json and model.safetensors, or an .onnx or .pt2 file.
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
        model = load_exported(path, trust=trust)
        if device not in ("auto", "cpu"):
            raise checks.InputError(f"{path} runs on the CPU here; --device {device} is for runs and saved networks")
        return _trained(model, path, "cpu", source=path)
    if not path.exists():
        raise checks.InputError(f"{path} is neither a run folder nor a checkpoint: there is no such file or folder")
    file = path / f"{checkpoint}.pt" if path.is_dir() else path
    if file.exists():
        return _of_checkpoint(file, device)
    if not is_saved(path):
        raise checks.InputError(f"{path} holds no {file.name}; a run writes it at the end of its first epoch")
    return _trained(read(path), path / WEIGHTS, device, source=path / CONFIG)


def _trained(model: HubNetwork | ExportedNetwork, file: Path, device: str, *, source: Path) -> Trained:
    """Return the network in ``file``, with what the config in ``source`` says of it."""
    meta = model.meta = _meta(model.meta, source)
    if isinstance(model, HubNetwork):
        assert model.blueprint is not None
        name, options, channels = model.blueprint.name, model.blueprint.options, model.blueprint.in_channels
        if meta["channels"] != channels:
            raise checks.InputError(
                f"{source} is damaged: its meta has {meta['channels']} image channels, and its network is of {channels}"
            )
    else:
        name, options = model.config["model"], model.config["options"]
    config = config_of(model.provenance, name, options, source=str(source))
    where = choose_device(device)
    return Trained(model.to(where), config, meta, where, file, scores_of(model.provenance))


def _of_checkpoint(file: Path, device: str) -> Trained:
    where = choose_device(device)
    if file.suffix == ".safetensors":
        raise checks.InputError(f"{file} holds weights alone; give the folder that holds it and config.json")
    state = load_checkpoint(file)
    config, meta = RunConfig.from_dict(state["config"], source=str(file)), _meta(state["meta"], file)
    average = state["average"] or {}
    if not isinstance(average, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in average.values()):
        raise checks.InputError(f"{file} is damaged: its 'average' holds something other than tensors")
    weights = {**state["model"], **average}
    if sum(tensor.numel() * tensor.element_size() for tensor in weights.values()) > file.stat().st_size:
        raise checks.InputError(f"{file} is damaged: its tensors are larger than the file")
    try:
        options = {**model_options(config.model), **config.model_options}
    except checks.InputError as error:
        raise checks.InputError(f"{file}: {error}") from None
    provenance = provenance_of(config, state, file)
    described = {
        "model": config.model,
        "num_classes": len(meta["classes"]),
        "in_channels": meta["channels"],
        "image_size": meta["image_size"],
        "options": options,
        # Of what leaves this machine, nothing of the files trained on, nor of its folders.
        "meta": {k: v for k, v in meta.items() if k != "images"} | {"name": provenance["config"]["data"]},
        "provenance": provenance,
    }
    otherwise = f"{file} is a checkpoint of {config.model!r}"
    model = build(described, shapes_of(weights), lambda: weights, source=str(file), otherwise=otherwise)
    return Trained(model.to(where), config, meta, where, file, scores_of(provenance))


def _meta(meta: Any, file: Path) -> dict[str, Any]:
    """``meta`` of ``file``, all in it that an image needs before the network can be used."""
    if meta is None:
        raise checks.InputError(f"{file} does not say what its images are: the network was not saved from a run")
    try:
        return checked_meta(meta)
    except checks.InputError as error:
        raise checks.InputError(f"{file} does not say what its images are: {error}") from None
