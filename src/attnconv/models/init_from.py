"""Weights of a plain network, trained or just drawn, as the start of an augmented one.

An augmented convolution keeps, as its ``conv_out``, the first filters of the convolution that it replaces; its
attention starts as it was drawn. The first weights of both being the same, runs of a seed differ by attention alone;
what attention adds is drawn from generators of its own, one a layer, so that neither shifts the other's numbers.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from attnconv.layers.attention import Attention

if TYPE_CHECKING:
    from attnconv.models.network import HubNetwork


from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

from torch import Tensor

from attnconv import checks
from attnconv.foreign import Source, read_state_dict
from attnconv.weights import FLOATS, unfit


@dataclass(frozen=True)
class Transfer:
    """The origin of a network's weights; str() is a table.

    Args:
        copied: names of tensors taken over whole.
        cut: of convolutions of which the first filters were taken.
        left: of tensors that stayed as they were drawn, for want of one that fits.
        unused: of tensors of the source of which nothing was taken.
        taken: where in the source the weights were, and what was left off their names.
    """

    copied: tuple[str, ...]
    cut: tuple[str, ...]
    left: tuple[str, ...]
    unused: tuple[str, ...]
    taken: str = ""

    def __str__(self) -> str:
        lines = [f"taken        {self.taken}"] if self.taken else []
        lines.append(f"copied {len(self.copied):4}")
        for what, names in (("cut", self.cut), ("left", self.left), ("unused", self.unused)):
            first, *others = names or ("",)
            lines.append(f"{what:6} {len(names):4}  {first}".rstrip())
            lines += [f"{'':13}{name}" for name in others]
        return "\n".join(lines)


def initialise(model: nn.Module, name: str, source: Source) -> Transfer:
    """Copy into ``model``, the network ``name``, what fits of ``source``.

    Args:
        source: "torchvision", for the weights that torchvision calls its default; or a file or state dict, in which
            the weights are found as `attnconv.foreign.read_state_dict` finds them.
    Raises:
        InputError: it cannot be had or read, or is of another family than ``model``, which is then as it was.
    """
    if not isinstance(source, (str, PathLike, Mapping)):
        raise checks.InputTypeError(
            f"init_from must be 'torchvision', a path or a state dict, got {type(source).__name__}"
        )
    found = read_state_dict(_torchvision(name) if source == "torchvision" else source)
    label, given = "torchvision's file" if source == "torchvision" else found.label, found.tensors
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
    if not any(tensor.dim() > 1 and not key.startswith("fc.") for key, tensor in taken.items()):
        key, tensor = next(iter(given.items()))
        raise checks.InputError(f"nothing in {label} fits {name}: it holds {key!r} of shape {tuple(tensor.shape)}, ...")
    for key in left:
        if _is_the_trunk(key, state[key]) and not _differs_in_channels(given.get(key), state[key]):
            raise checks.InputError(
                f"{label} is not of a plain network of {name}'s family: it has nothing for {key!r} "
                f"of shape {tuple(state[key].shape)}"
            )
    # Counts, such as num_batches_tracked, are fractions in an average of networks.
    if problem := unfit(taken, {key: t if t.dtype in FLOATS else state[key] for key, t in taken.items()}):
        raise checks.InputError(f"{label} cannot be the start of {name}: {problem}")
    with torch.no_grad():
        for key, tensor in taken.items():
            state[key].copy_(tensor[: len(state[key])] if key in cut else tensor)
    unused = tuple(key for key in given if key not in used)
    return Transfer(tuple(copied), tuple(cut), tuple(left), unused, found.taken)


def _is_the_trunk(key: str, tensor: Tensor) -> bool:
    """True for a convolution that the plain network has too: not of an attention, nor of squeeze-excitation."""
    added = {"qkv_conv", "attn_out", "attention", "se"}
    return tensor.dim() == 4 and not added.intersection(key.split("."))


def _differs_in_channels(old: Tensor | None, new: Tensor) -> bool:
    """True for the first convolution where images have another number of channels."""
    return old is not None and len(old) == len(new) and old.shape[2:] == new.shape[2:]


def _has_more_filters(old: Tensor, new: Tensor) -> bool:
    return old.shape[1:] == new.shape[1:] and len(old) > len(new)


def _torchvision(name: str) -> Mapping[str, Any]:
    """Return the default weights of torchvision's network of that name, aa_ or se_ apart."""
    models = checks.require("torchvision", extra="train").models
    plain = name.removeprefix("aa_").removeprefix("se_")
    try:
        weights = models.get_model_weights(plain).DEFAULT
    except ValueError:
        raise checks.InputError(
            f"torchvision has no weights for {plain}; give init_from a file or a state dict"
        ) from None
    try:
        return weights.get_state_dict(check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError) as error:
        raise checks.InputError(f"cannot get {weights.url}: {checks.first_line(error)}") from error


def has_memory(model: nn.Module) -> bool:
    """True unless the weights are on the meta device, or only pretend not to be."""
    return all(parameter.untyped_storage().device.type != "meta" for parameter in model.parameters())


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Put torch's generators back at the end of the block."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        yield


def share_draws(model: "HubNetwork", name: str, plain: Callable[[], nn.Module]) -> None:
    """Give ``model``, the network ``name``, the weights of ``plain()``, drawn where torch's generators stand.

    Each attention layer is drawn from the state of the CPU's generator and the layer's dotted name.
    """
    state = bytes(torch.get_rng_state().numpy())
    initialise(model, name, plain().state_dict())
    for dotted, layer in model.named_modules():
        if isinstance(layer, Attention):
            digest = hashlib.sha256(state + dotted.encode()).digest()
            with generators_kept():
                torch.manual_seed(int.from_bytes(digest[:8], "little", signed=True))
                layer.reset_attention(model.initialise)
