"""Device and precision of a run as a Fabric, the network set up by it, and the versions that it runs with."""

import contextlib
import logging
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import nn

from attnconv import __version__, checks
from attnconv.train.checkpoint import require_weights
from attnconv.train.config import Device, RunConfig
from attnconv.train.optim import WeightAverage, build_optimizer
from attnconv.train.processes import Ranks, launch, process_count

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISIONS = {"fp32": "32-true", "tf32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
CUDA_ONLY = ("tf32", "fp16")
# The root of the checkout, if this file is in one: <root>/src/attnconv/train/device.py
ROOT = Path(__file__).resolve().parents[3]


def choose_device(name: str) -> torch.device:
    """Return the device called ``name``; "auto" is the first available of cuda, mps and cpu.

    Raises:
        InputError: the name is unknown, or this machine has no such device.
    """
    checks.one_of("device", name, get_args(Device))
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind in present if present[kind])
    if not present[name]:
        here = ", ".join(kind for kind in present if present[kind])
        raise checks.InputError(f"device {name!r} is not available here; available: {here}")
    return torch.device(name) if name == "cpu" else torch.device(name, 0)


def make_fabric(device: str, precision: str = "fp32", *, devices: int | str | None = None, nodes: int = 1) -> "Fabric":
    """Return a Fabric to launch, whose ``setup_module(model)`` gives a model that runs in this precision.

    Args:
        device, precision, devices, nodes: those of RunConfig. Several processes train with DDP.
    Raises:
        InputError: the device or the precision is unknown or unavailable; tf32 or fp16 without cuda; see
            `process_count`.
    """
    checks.one_of("precision", precision, PRECISIONS)
    kind = choose_device(device).type
    if precision in CUDA_ONLY and kind != "cuda":
        raise checks.InputError(
            f"precision {precision!r} needs device 'cuda', this run is on {kind!r}; use 'bf16' or 'fp32'"
        )
    count, nodes = process_count(kind, devices, nodes)
    from lightning_fabric import Fabric  # takes seconds to import, and choose_device is called without it

    # Without this it logs each process that it starts, and the precision.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    strategy = "ddp" if count * nodes > 1 else "auto"
    return Fabric(accelerator=kind, devices=count, num_nodes=nodes, strategy=strategy, precision=PRECISIONS[precision])  # pyright: ignore[reportArgumentType]


def fabric_of(config: RunConfig) -> "Fabric":
    """Return the launched Fabric of ``config``: from here on, each of its processes runs the program."""
    fabric = make_fabric(config.device, config.precision, devices=config.devices, nodes=config.nodes)
    if config.sync_batchnorm and (fabric.world_size == 1 or fabric.device.type != "cuda"):
        raise checks.InputError(
            f"sync_batchnorm needs several processes on GPUs, got {fabric.world_size} on {fabric.device.type!r}"
        )
    if config.batch_size < fabric.world_size:
        raise checks.InputError(
            f"batch_size must be at least the number of processes, {fabric.world_size}, got {config.batch_size}"
        )
    launch(fabric.launch)
    return fabric


def precision_note(precision: str, device: torch.device) -> str | None:
    """Return a sentence if ``device`` is a CPU whose convolutions are far slower in ``precision`` than in float32."""
    if precision != "bf16" or device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return None
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    return "this CPU has no instructions for precision bf16: fp32 is many times faster"


@contextlib.contextmanager
def float32_products(precision: str, device: torch.device) -> Iterator[None]:
    """Make a GPU multiply float32 matrices with 10 bits for "tf32", else exactly, inside the block.

    torch's defaults, exact for products and 10 bits for convolutions, are restored at the end.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, else "cpu" or "mps"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def provenance(device: torch.device) -> dict[str, str | None]:
    """Return device name, versions of torch and attnconv, and the commit, None outside a checkout."""
    return {"device": device_name(device), "torch": torch.__version__, "attnconv": __version__, "commit": commit(ROOT)}


def commit(root: Path) -> str | None:
    """Return the commit checked out at ``root``, with "-dirty" if files differ; None if ``root`` is no checkout's top.

    An environment inside the checkout of another project is not of that project's commit.
    """
    if not (root / ".git").exists():
        return None
    # Never by a tag.
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.rstrip("\n")
    except (OSError, subprocess.SubprocessError):
        return None


@dataclass(frozen=True)
class Engine:
    """A network set up by Fabric: ``bare`` is the network itself, ``model`` the wrapper to call."""

    fabric: "Fabric"
    ranks: Ranks
    bare: nn.Module
    model: nn.Module
    optimizer: Any  # Fabric's
    average: WeightAverage | None

    def state_dict(self) -> dict[str, Any]:
        """Return the engine's part of a checkpoint."""
        return {
            "model": self.bare.state_dict(),
            "optimizer": self.optimizer.optimizer.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "average": self.average and self.average.state_dict(),
        }

    def load_state_dict(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Load a checkpoint read from ``path``.

        Raises:
            InputError: the weights or the optimiser's state are another network's.
        """
        require_weights(self.bare, checkpoint, path)
        self.bare.load_state_dict(checkpoint["model"])
        self.optimizer.optimizer.load_state_dict(checkpoint["optimizer"])
        self.fabric.strategy.precision.load_state_dict(checkpoint["scaler"])
        if self.average is not None:
            self.average.load_state_dict(checkpoint["average"])


def make_engine(model: nn.Module, config: RunConfig, fabric: "Fabric") -> Engine:
    """Return ``model``, moved to the device of a launched ``fabric``, with its optimiser."""
    if config.sync_batchnorm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    called = fabric.setup_module(torch.compile(model) if config.compile else model)  # pyright: ignore[reportArgumentType]
    optimizer = fabric.setup_optimizers(build_optimizer(model, config))
    average = WeightAverage(model, config.ema) if config.ema else None
    return Engine(fabric, Ranks(fabric), model, called, optimizer, average)
