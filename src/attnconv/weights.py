"""Weights by name: comparison of shapes, and safetensors files, which contain no code."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from attnconv import checks, files

Shapes = dict[str, tuple[int, ...]]
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def shapes_of(weights: Mapping[str, Tensor]) -> Shapes:
    """Return the shape of each tensor."""
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def difference(given: Shapes, wanted: Shapes) -> str:
    """Return a clause about the first tensor that differs from the network's; "" if none does."""
    if missing := [name for name in wanted if name not in given]:
        return f"missing key {missing[0]!r}"
    if unexpected := [name for name in given if name not in wanted]:
        return f"unexpected key {unexpected[0]!r}"
    if other := [name for name in wanted if wanted[name] != given[name]]:
        return f"{other[0]!r} is {given[other[0]]} in it and {wanted[other[0]]} in the network"
    return ""


def unfit(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Return a clause about the first unusable tensor of ``given``; "" if there is none.

    Args:
        given: tensors with the names and shapes of ``wanted``.
        wanted: the network's weights and counts such as num_batches_tracked, on any device.
    """
    for name, tensor in wanted.items():
        found = given[name]
        if found.is_meta or found.layout != torch.strided:
            return f"{name!r} is not a plain tensor"
        if not tensor.is_floating_point():
            if found.dtype != tensor.dtype:
                return f"{name!r} is of {found.dtype} in it and of {tensor.dtype} in the network"
        elif found.dtype not in FLOATS:
            return f"{name!r} is of {found.dtype}, and weights are of one of {', '.join(map(str, FLOATS))}"
        elif not found.to(tensor.dtype).isfinite().all():
            return f"{name!r} holds a number that is not finite in {tensor.dtype}"
    return ""


@contextlib.contextmanager
def open_safetensors(path: Path, *, extra: str) -> Iterator[tuple[Shapes, Callable[[], dict[str, Tensor]]]]:
    """Open ``path``; yield its shapes and a function that reads its tensors on the CPU.

    Errors inside the ``with`` block become InputError.

    safetensors opens the file by name, so replacement after the checks or truncation during reading goes unnoticed.

    Args:
        path: an existing file.
        extra: the extra of this library that installs safetensors.
    """
    safetensors = checks.require("safetensors", extra=extra)
    # SafetensorError, OSError, or due to a damaged header
    with checks.explained(f"{path} is damaged or not a safetensors file"):
        files.require(path, at_most=files.WEIGHTS)
        files.require_memory(str(path), path.stat().st_size)
        with safetensors.safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            # Copies, since mapped tensors have unaligned addresses, where sums may round differently.
            yield shapes, lambda: {name: file.get_tensor(name).clone() for name in shapes}
