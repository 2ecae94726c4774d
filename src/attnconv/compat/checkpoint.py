"""Whole networks of 2019 and of fastai, loaded from their checkpoints into ours with the same numbers.

Sources: as `attnconv.compat.recognised`, which knows the names.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attnconv import checks
from attnconv.compat.recognised import Recognised, recognised
from attnconv.foreign import Found, Source, read_state_dict
from attnconv.layers.spectral_norm import rename_old_keys
from attnconv.models.network import HubNetwork
from attnconv.models.registry import create_model, find
from attnconv.weights import Shapes, difference, shapes_of, unfit

ANY_SIZE = 128  # pixels: of networks without tables, which take images of every size


def load_checkpoint(
    source: Source | Found,
    name: str,
    *,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    average: bool = False,
    **options: Any,
) -> HubNetwork:
    """Return the network ``name`` with the weights of a checkpoint of 2019 or of fastai, in eval mode on the CPU.

    It reads the Wide_ResNet of Attention-Augmented-Conv2d (``seed_aa_wide_resnet{depth}_{k}``), and the XResNets of
    SimpleSelfAttention and fastai 2 (``xresnet*``, ``ssa_xresnet*``) and, from 50 on, of fastai 1.0.52.
    ``head_layout`` is "legacy" unless it is given. SimpleSelfAttention's symmetric option had no effect under spectral
    norm: its checkpoints give their numbers with ``symmetric=False``.

    Args:
        source: a file, from which nothing is run, or the object loaded from one.
        name: of `attnconv.models.create_model`.
        num_classes: expected number of classes; not checked if None.
        image_size: side, or rows and columns, of the images; read off the position tables if None.
        average: take the averaged weights where the file holds both.
        options: of the network; those that the weights determine, such as ``stem``, may be left out.
    Raises:
        InputError: the file cannot be read, or holds no such network; the message names the first tensor that differs
            and the network that the file resembles.
    """
    found = source if isinstance(source, Found) else read_state_dict(source, average=average)
    network = find(name)
    network.check_options(options)
    known = network.options
    if options.get("symmetric"):
        raise checks.InputError(
            "the symmetric option had no effect in the program that wrote the checkpoint; leave symmetric=True out"
        )
    tensors, label = found.tensors, found.label
    if (theirs := recognised(shapes_of(tensors))) is None:
        first, tensor = next(iter(tensors.items()))
        raise checks.InputError(
            f"{label} holds neither Attention-Augmented-Conv2d's Wide_ResNet nor an XResNet of SimpleSelfAttention or "
            f"fastai; its first tensor is {first!r} of shape {tuple(tensor.shape)}"
        )
    alike = "" if theirs.name in (name, None) else f"; it looks like {theirs.name}"
    if theirs.differs is not None:
        alike += f"; {theirs.differs}"
    if not re.fullmatch(theirs.pattern, name):
        raise checks.InputError(
            f"{label} does not hold the weights of {name}: its tensors are named as those of {theirs.family}{alike}"
        )
    if num_classes is not None and num_classes != theirs.num_classes:
        raise checks.InputError(f"{label} is of a network with {theirs.num_classes} classes, not {num_classes}")
    settings: dict[str, Any] = {
        "num_classes": theirs.num_classes,
        "in_channels": theirs.in_channels,
        "image_size": next(size for size in (image_size, theirs.image_size, ANY_SIZE) if size is not None),
        **{key: value for key, value in theirs.options.items() if key in known},  # not attention's, if there is none
        **options,
    }
    with torch.device("meta"):
        empty = create_model(name, **settings)
    state = _in_our_names(tensors, theirs, empty, label)
    if problem := _difference(shapes_of(state), shapes_of(empty.state_dict()), theirs):
        raise checks.InputError(f"{label} does not hold the weights of {name}: {problem}{alike}")
    weights = {key: tensor for key, tensor in empty.state_dict().items() if tensor.is_floating_point()}
    if problem := unfit(state, weights):  # averages of counts may well be fractions
        raise checks.InputError(f"{label} does not hold the weights of {name}: {problem}")
    with torch.random.fork_rng(devices=[]):  # the weights that are drawn are thrown away
        model = create_model(name, **settings)
    model.load_state_dict(state)
    return model.eval()


def _in_our_names(tensors: Mapping[str, Tensor], theirs: Recognised, empty: nn.Module, label: str) -> dict[str, Tensor]:
    """Return the tensors as the state dict of ``empty`` calls them; tensors that it lacks keep their names."""
    state = {theirs.names[name]: tensor for name, tensor in tensors.items()}
    if len(state) < len(tensors):
        raise checks.InputError(f"{label} holds a tensor of {theirs.family} twice, under the names of two programs")
    for name, module in empty.named_modules():
        if isinstance(module, nn.Conv1d):  # of an attention: under spectral norm
            with checks.explained(f"{label}: the spectral norm of {name} is damaged", RuntimeError, IndexError):
                rename_old_keys(module, state, f"{name}.")
    return state


def _difference(given: Shapes, wanted: Shapes, theirs: Recognised) -> str:
    """Return `weights.difference`, in the file's names where it has one."""
    their_names = {ours: name for name, ours in theirs.names.items()}
    given, wanted = (
        {their_names.get(name, name): shape for name, shape in shapes.items()} for shapes in (given, wanted)
    )
    return difference(given, wanted)
