"""Weights of a plain network, trained or new, as the start of an augmented one.

The ``conv_out`` of an augmented convolution takes the first filters of the convolution that it replaces; its attention
keeps its own initialisation. Networks of one seed thus start from equal weights and differ by attention alone. Each
attention layer has a random generator of its own, so that it does not shift the numbers of the others.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from attnconv import checks
from attnconv.extensions import LIBRARIES
from attnconv.foreign import Found, Source, read_state_dict
from attnconv.layers import draws
from attnconv.layers.attention import Attention
from attnconv.surgery.network import plain_names
from attnconv.weights import FLOATS, unfit

if TYPE_CHECKING:
    from attnconv.models.network import HubNetwork


@dataclass(frozen=True)
class Transfer:
    """The origin of a network's weights; str() is a table.

    Args:
        copied: names of tensors that were copied whole.
        cut: names of convolutions that received the first filters of a larger one.
        left: names of tensors that kept their initialisation, because nothing fits.
        unused: names of source tensors that were not used.
        taken: the place of the weights in the source, and the prefix removed from their names.
    """

    copied: tuple[str, ...]
    cut: tuple[str, ...]
    left: tuple[str, ...]
    unused: tuple[str, ...]
    taken: str = ""

    @property
    def taken_over(self) -> tuple[str, ...]:
        """Names of tensors that were copied, whole or in part."""
        return (*self.copied, *self.cut)

    def __str__(self) -> str:
        lines = [f"taken        {self.taken}"] if self.taken else []
        lines.append(f"copied {len(self.copied):4}")
        for what, names in (("cut", self.cut), ("left", self.left), ("unused", self.unused)):
            first, *others = names or ("",)
            lines.append(f"{what:6} {len(names):4}  {first}".rstrip())
            lines += [f"{'':13}{name}" for name in others]
        return "\n".join(lines)


def has_names_of(model: nn.Module, found: Found) -> bool:
    """True if the names in ``found`` include all convolutions of the model."""
    return all(key in found.tensors for key, tensor in model.state_dict().items() if tensor.dim() > 2)


def given_weights(source: Source, name: str) -> Found:
    """Read the weights that the network ``name`` starts from.

    Args:
        source: "torchvision" or "timm" for their default weights; or a file or a state dict, as in
            `attnconv.foreign.read_state_dict`.
    Raises:
        InputError: the weights cannot be downloaded or read.
    """
    if not isinstance(source, (str, PathLike, Mapping)):
        raise checks.InputTypeError(
            f"init_from must be 'torchvision', 'timm', a path or a state dict, got {type(source).__name__}"
        )
    if isinstance(source, str) and source in LIBRARIES:
        plain = name.removeprefix(f"{source}:").removeprefix("aa_").removeprefix("se_")
        found = read_state_dict(_timm(plain) if source == "timm" else _torchvision(plain))
        return replace(found, label=f"{source}'s file")
    return read_state_dict(source)


def initialise(model: nn.Module, name: str, found: Found) -> Transfer:
    """Copy the tensors of ``found`` that fit into ``model``, the network ``name``.

    Raises:
        InputError: the weights are of another family; ``model`` is unchanged.
    """
    label, given = found.label, found.tensors
    state = model.state_dict()
    if any(tensor.is_meta for tensor in state.values()):
        raise checks.InputError(f"init_from needs a network with memory, and {name} is on the meta device")
    taken: dict[str, Tensor] = {}
    copied, cut, left, used = [], [], [], set()
    for key, tensor in state.items():
        plain = key.replace(".conv_out.", ".")
        if key in given and given[key].shape == tensor.shape:
            copied.append(key)
            used.add(key)
            taken[key] = given[key]
        elif key not in given and plain in given and _has_more_filters(given[plain], tensor):
            cut.append(key)
            used.add(plain)
            taken[key] = given[plain]
        else:
            left.append(key)
    # A single matrix that fits may be any classifier with as many features.
    if not any(tensor.dim() > 2 for tensor in taken.values()) and sum(t.dim() > 1 for t in taken.values()) < 2:
        key, tensor = next(iter(given.items()))
        raise checks.InputError(f"nothing in {label} fits {name}: it holds {key!r} of shape {tuple(tensor.shape)}, ...")
    added = [f"{name}." for name, module in model.named_modules() if isinstance(module, Attention)]
    classifiers = [key for key in left if _differs_in_outputs(given.get(key), state[key])]
    for key in left:
        known = _differs_in_channels(given.get(key), state[key]) or classifiers == [key]
        if _is_the_trunk(key, state[key], added) and not known:
            raise checks.InputError(
                f"{label} is not of a plain network of {name}'s family: it has nothing for {key!r} "
                f"of shape {tuple(state[key].shape)}"
            )
    # Averages of networks hold fractions as counts such as num_batches_tracked.
    if problem := unfit(taken, {key: t if t.dtype in FLOATS else state[key] for key, t in taken.items()}):
        raise checks.InputError(f"{label} cannot be the start of {name}: {problem}")
    with torch.no_grad():
        for key, tensor in taken.items():
            state[key].copy_(tensor[: len(state[key])] if key in cut else tensor)
    unused = tuple(key for key in given if key not in used)
    return Transfer(tuple(copied), tuple(cut), tuple(left), unused, found.taken)


def _is_the_trunk(key: str, tensor: Tensor, added: list[str]) -> bool:
    """True for a convolution of the plain network, not ``added`` as attention or squeeze-excitation."""
    inside = any(key.startswith(layer) and not key.startswith(f"{layer}conv_out.") for layer in added)
    return tensor.dim() == 4 and not inside and "se" not in key.split(".")


def _differs_in_channels(old: Tensor | None, new: Tensor) -> bool:
    """True for a first convolution of another number of image channels."""
    return old is not None and len(old) == len(new) and old.shape[2:] == new.shape[2:]


def _differs_in_outputs(old: Tensor | None, new: Tensor) -> bool:
    """True for a classifier that is a 1x1 convolution of another number of classes."""
    return old is not None and new.dim() == 4 and new.shape[2:] == (1, 1) and old.shape[1:] == new.shape[1:]


def _has_more_filters(old: Tensor, new: Tensor) -> bool:
    return old.shape[1:] == new.shape[1:] and len(old) > len(new)


def after_surgery(transfer: Transfer, model: nn.Module) -> Transfer:
    """Return ``transfer`` of a network before surgery with the names that ``model`` has after it."""
    before, plain_of = {*transfer.copied, *transfer.cut}, plain_names(model)  # attention after a module has no name
    plain = {name: plain_of.get(name, "") for name in model.state_dict()}
    copied = tuple(name for name in plain if plain[name] in before)
    cut = tuple(n for n in plain if n not in copied and plain[n].replace(".conv_out.", ".") in before)
    left = tuple(name for name in plain if name not in (*copied, *cut))
    return Transfer(copied, cut, left, transfer.unused, transfer.taken)


def _torchvision(plain: str) -> Mapping[str, Any]:
    """Return torchvision's default weights of the network ``plain``."""
    models = checks.require("torchvision", extra="train").models
    if plain not in models.list_models():
        raise checks.InputError(f"torchvision has no weights for {plain}; give init_from a file or a state dict")
    weights = models.get_model_weights(plain).DEFAULT
    with checks.explained(f"cannot get {weights.url}", OSError, RuntimeError):
        return weights.get_state_dict(check_hash=True, map_location="cpu", weights_only=True)


def _timm(plain: str) -> Mapping[str, Any]:
    """Return timm's default weights of the network ``plain``."""
    timm = checks.require("timm", extra="timm")
    if not timm.is_model_pretrained(plain):
        raise checks.InputError(f"timm has no weights for {plain}; give init_from a file or a state dict")
    with checks.explained(f"cannot get timm's weights of {plain}"):  # errors of the Hub's client and its HTTP library
        return timm.create_model(plain, pretrained=True).state_dict()


def has_memory(model: nn.Module) -> bool:
    """True unless the weights are on the meta device, also under fake tensors."""
    return all(parameter.untyped_storage().device.type != "meta" for parameter in model.parameters())


def share_draws(model: "HubNetwork", name: str, plain: Callable[[], nn.Module]) -> None:
    """Give ``model``, the network ``name``, the weights of ``plain()``, made from the current state of the generators.

    Each attention layer is initialised from the state of the CPU generator and the layer's dotted name.
    """
    state = draws.generator_state()
    initialise(model, name, Found(plain().state_dict(), f"the plain twin of {name}", ""))
    for dotted, layer in model.named_modules():
        if isinstance(layer, Attention):
            with draws.own_generator(state, dotted):
                layer.reset_attention(model.initialise)
