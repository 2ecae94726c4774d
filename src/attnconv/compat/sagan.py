"""Load SAGAN's layer from checkpoints of the two most used public programs.

Sources: heykeetae's Self-Attention-GAN, sagan_models.py; BigGAN-PyTorch, layers.py. The first implements the paper's
text, with biases and without spectral norm, and calls query what we call key. The second implements the paper's code,
with a spectral norm of its own: it stores u with each weight, and in evaluation divides by the norm that one full power
iteration from u gives.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attnconv import checks
from attnconv.foreign import Source, read_state_dict
from attnconv.foreign.read import WRAPPERS
from attnconv.layers import SelfAttention
from attnconv.weights import Shapes, difference, shapes_of, unfit

FIRST = re.compile(r"(?:(.*)\.)?(query_conv|theta)\.weight")  # of a layer's tensors
# The names of our convolutions there.
NAMES = {
    "query_conv": {"query": "key_conv", "key": "query_conv", "value": "value_conv"},
    "theta": {"query": "phi", "key": "theta", "value": "g", "out": "o"},
}


def load_self_attention(source: Source, prefix: str = "") -> SelfAttention:
    """Return SAGAN's layer from a checkpoint, with the same numbers, in eval mode on the CPU.

    It recognises heykeetae's ``Self_Attn`` (query_conv, key_conv, value_conv, gamma) and BigGAN-PyTorch's ``Attention``
    (theta, phi, g, o, gamma) by their keys. `attnconv.compat.SelfAttention` loads fastai's.

    Args:
        source: a file, from which nothing is run, or the object loaded from one.
        prefix: the layer's dotted name in a whole network, such as "attn1" or "blocks.3.1", with or without a
            ``module.`` that all names share.
    Raises:
        InputError: the file cannot be read, has no such layer there (the message gives the nearest name), or a tensor
            of the layer is missing, unexpected or of another shape (the message names it).
    """
    if not isinstance(prefix, str):
        raise checks.InputTypeError(f"prefix must be a string, got {type(prefix).__name__}")
    found = read_state_dict(source)
    tensors, label = found.tensors, found.label
    layers = {match[1] or "": NAMES[match[2]] for match in map(FIRST.fullmatch, tensors) if match}
    if not layers:
        raise checks.InputError(
            f"{label} holds no layer of SAGAN; expected query_conv, key_conv, value_conv and gamma, or theta, phi, g, "
            f"o and gamma; {checks.nearest('query_conv.weight', tensors)}"
        )
    place = prefix.rstrip(".")
    while place not in layers and (shared := next((w for w in WRAPPERS if f"{place}.".startswith(w)), None)):
        place = f"{place}.".removeprefix(shared).rstrip(".")  # the reader takes off what all names share
    if place not in layers:
        near = checks.nearest(place, layers)
        raise checks.InputError(f"{label} holds no layer of SAGAN at prefix={prefix!r}; {near}")
    inside = f"{place}." if place else ""
    theirs = {name.removeprefix(inside): tensor for name, tensor in tensors.items() if name.startswith(inside)}
    return _layer(theirs, layers[place], f"{label} at prefix={prefix!r}" if place else label)


def _layer(theirs: Mapping[str, Tensor], names: Mapping[str, str], label: str) -> SelfAttention:
    """Return the layer with these tensors; ``names`` maps our convolutions to theirs."""
    given, whole, normed = shapes_of(theirs), "out" in names, "theta.u0" in theirs
    for name in names.values():
        if len(shape := given.get(f"{name}.weight", (1,) * 4)) != 4:
            raise checks.InputError(f"{label} is no layer of SAGAN: {name}.weight must have 4 axes, got {shape}")
    keys, channels = (*given[f"{names['key']}.weight"], 1, 1)[:2]
    values = (*given.get(f"{names['value']}.weight", ()), 1)[0]
    with torch.device("meta"):
        layer = SelfAttention(
            channels,
            key_ratio=_ratio(keys, channels),
            value_ratio=_ratio(values, channels) if whole else None,
            pool=2 if whole else 1,
            bias=not whole,
            spectral_norm=normed,
        )
    wanted: Shapes = {"gamma": () if whole else (1,)}
    state = {}
    for ours, name in names.items():
        conv: Any = layer.get_submodule(ours)
        wanted[f"{name}.weight"] = (*conv.weight.shape, 1)
        if conv.bias is not None:
            wanted[f"{name}.bias"] = tuple(conv.bias.shape)
        if normed:
            wanted |= {f"{name}.u0": (1, len(conv.weight)), f"{name}.sv0": (1,)}
    if problem := difference(given, wanted) or unfit(theirs, dict.fromkeys(wanted, layer.gamma)):
        raise checks.InputError(f"{label} is no layer of SAGAN: {problem}; expected {', '.join(wanted)}")
    for ours, name in names.items():
        weight = theirs[f"{name}.weight"].flatten(2)
        if normed:  # by the names that torch once gave them
            v = F.normalize(theirs[f"{name}.u0"][0] @ weight[..., 0], dim=0)
            u = F.normalize(weight[..., 0] @ v, dim=0)
            state |= {f"{ours}.weight_orig": weight, f"{ours}.weight_u": u, f"{ours}.weight_v": v}
        else:
            state[f"{ours}.weight"] = weight
        if f"{name}.bias" in theirs:
            state[f"{ours}.bias"] = theirs[f"{name}.bias"]
    state["gamma"] = theirs["gamma"].reshape(1)
    layer.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)
    return layer.cpu().eval()


def _ratio(width: int, channels: int) -> float:
    """Return a ratio for which the layer, which rounds down, has that width."""
    return min(1.0, (width + 0.5) / max(channels, 1))
