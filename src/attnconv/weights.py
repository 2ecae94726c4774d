"""Weights by name: their shapes compared, files of safetensors opened.

It needs nothing else of this library. Nothing in a file of safetensors is ever run.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnconv import checks, files

Shapes = dict[str, tuple[int, ...]]
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def shapes_of(weights: Mapping[str, Tensor]) -> Shapes:
    """The shape of each tensor."""
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def difference(given: Shapes, wanted: Shapes) -> str:
    """One clause on the first tensor in which what is ``given`` differs from the network's; "" if there is none."""
    if missing := [name for name in wanted if name not in given]:
        return f"missing key {missing[0]!r}"
    if unexpected := [name for name in given if name not in wanted]:
        return f"unexpected key {unexpected[0]!r}"
    if other := [name for name in wanted if wanted[name] != given[name]]:
        return f"{other[0]!r} is {given[other[0]]} in it and {wanted[other[0]]} in the network"
    return ""


def unfit(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """One clause on the first tensor ``given`` that holds no numbers to compute with; "" if all do.

    Args:
        given: of the names and shapes of ``wanted``.
        wanted: the network's, perhaps on the meta device: weights, and counts such as num_batches_tracked.
    """
    for name, tensor in wanted.items():
        found = given[name]
        if found.is_meta or found.layout != torch.strided:
            return f"{name!r} is no plain tensor"
        if not tensor.is_floating_point():
            if found.dtype != tensor.dtype:
                return f"{name!r} is of {found.dtype} in it and of {tensor.dtype} in the network"
        elif found.dtype not in FLOATS:
            return f"{name!r} is of {found.dtype}, and weights are of one of {', '.join(map(str, FLOATS))}"
        elif not found.isfinite().all():
            return f"{name!r} holds a number that is not finite"
    return ""


class SafetensorsFile:
    """An open file of safetensors; `open_safetensors` gives one."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.texts: dict[str, str] = dict(file.metadata() or {})
        self.shapes: Shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118

    def tensors(self) -> dict[str, Tensor]:
        """All of them, on the CPU."""
        # Copies: what is mapped from the file lies at odd addresses, where sums can be rounded differently.
        return {name: self._file.get_tensor(name).clone() for name in self.shapes}


@contextlib.contextmanager
def open_safetensors(path: Path, *, extra: str) -> Iterator[SafetensorsFile]:
    """Open ``path``, and make one InputError of whatever goes wrong with it in the block.

    safetensors opens the file by its name: one that takes its place after it was looked at, or is cut short while it is
    read, is not noticed here.

    Args:
        path: the file, which is there.
        extra: of this library, that brings safetensors.
    """
    safetensors = checks.require("safetensors", extra=extra)
    try:
        files.require(path, at_most=files.WEIGHTS)
        files.require_memory(str(path), path.stat().st_size)
        with safetensors.safe_open(path, framework="pt") as file:
            yield SafetensorsFile(file)
    except checks.InputError:
        raise
    except Exception as error:  # SafetensorError, OSError, and what a damaged header can lead to
        raise checks.InputError(f"{path} is damaged or no file of safetensors: {checks.first_line(error)}") from error
