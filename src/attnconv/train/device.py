"""Where and in what arithmetic a run computes: names of RunConfig to a torch device and a Fabric."""

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_args

import torch

from attnconv import checks
from attnconv.train.config import Device, RunConfig
from attnconv.train.orphans import launch
from attnconv.train.processes import processes

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISIONS = {"fp32": "32-true", "tf32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
CUDA_ONLY = ("tf32", "fp16")


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


def make_fabric(
    device: str,
    precision: str = "fp32",
    *,
    devices: int | str | None = None,
    nodes: int = 1,
    strategy: str = "ddp",
) -> "Fabric":
    """A Fabric to launch; ``fabric.setup_module(model)`` gives a model that runs in this precision.

    Args:
        device, precision, devices, nodes, strategy: as RunConfig's. One process is no "ddp" and no "fsdp", but plain.
    Raises:
        InputError: an unknown or absent device or precision; tf32 or fp16 elsewhere than on cuda; see `processes`.
    """
    checks.one_of("precision", precision, PRECISIONS)
    checks.one_of("strategy", strategy, ("ddp", "fsdp"))
    kind = choose_device(device).type
    if precision in CUDA_ONLY and kind != "cuda":
        raise checks.InputError(
            f"precision {precision!r} needs device 'cuda', this run is on {kind!r}; use 'bf16' or 'fp32'"
        )
    count, nodes = processes(kind, devices, nodes)
    from lightning_fabric import Fabric  # takes seconds to import, and choose_device is called without it

    # Importing it lets it speak: of each process that it starts, and of the precision that was asked for.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    plan: Any = "auto"
    if count * nodes > 1:
        plan = "ddp" if strategy == "ddp" else _fsdp(count * nodes)
    return Fabric(accelerator=kind, devices=count, num_nodes=nodes, strategy=plan, precision=PRECISIONS[precision])  # pyright: ignore[reportArgumentType]


def fabric_of(config: RunConfig) -> "Fabric":
    """The Fabric that ``config`` asks for, launched: from here on, each of its processes runs the program."""
    fabric = make_fabric(
        config.device, config.precision, devices=config.devices, nodes=config.nodes, strategy=config.strategy
    )
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


def _fsdp(world: int) -> Any:
    from lightning_fabric.strategies import ModelParallelStrategy

    from attnconv.train.sharding import shard

    return ModelParallelStrategy(shard, data_parallel_size=world, tensor_parallel_size=1)  # pyright: ignore[reportArgumentType]


@contextlib.contextmanager
def float32_products(precision: str, device: torch.device) -> Iterator[None]:
    """In the block a GPU multiplies float32 matrices as ``precision`` says: with 10 bits for "tf32", exactly else.

    torch's own choice is exact for products and 10 bits for convolutions, so the settings are put back at the end.
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
