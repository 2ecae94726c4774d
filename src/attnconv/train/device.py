"""Where and in what arithmetic a run computes: names of RunConfig to a torch device and a Fabric."""

from typing import TYPE_CHECKING, get_args

import torch

from attnconv import checks
from attnconv.train.config import Device

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def choose_device(name: str) -> torch.device:
    """The device that ``name`` stands for; "auto" is the first of cuda, mps and cpu that is there.

    Raises:
        InputError: an unknown name, or a device that this machine does not have.
    """
    checks.one_of("device", name, get_args(Device))
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind in present if present[kind])
    if not present[name]:
        here = ", ".join(kind for kind in present if present[kind])
        raise checks.InputError(f"device {name!r} is not available here; available: {here}")
    return torch.device(name) if name == "cpu" else torch.device(name, 0)


def make_fabric(device: str, precision: str = "fp32") -> "Fabric":
    """One process on one device; ``fabric.setup_module(model)`` gives a model that runs in this precision.

    Raises:
        InputError: an unknown or absent device or precision, or fp16 elsewhere than on cuda.
    """
    checks.one_of("precision", precision, PRECISIONS)
    kind = choose_device(device).type
    if precision == "fp16" and kind != "cuda":
        raise checks.InputError(f"precision 'fp16' needs device 'cuda', this run is on {kind!r}; use 'bf16' or 'fp32'")
    from lightning_fabric import Fabric  # takes seconds to import, and choose_device is called without it

    return Fabric(accelerator=kind, devices=1, precision=PRECISIONS[precision])  # pyright: ignore[reportArgumentType]
