"""How many processes a run has, and who starts them: this program, torchrun, or SLURM."""

import os

import torch

from attnconv import checks


def processes(kind: str, devices: int | str | None, nodes: int) -> tuple[int, int]:
    """Processes on each machine, and machines.

    Args:
        kind: of device, "cpu", "cuda" or "mps".
        devices: a number, "auto" for all GPUs of the machine, or None for one; each of the three gives way to what a
            launcher has started, with which a number must agree.
        nodes: machines.
    Raises:
        InputError: the launcher started something else, or there are not so many devices.
    """
    if (started := launched()) is not None:
        launcher, here, machines = started
        if isinstance(devices, int) and devices != here:
            raise checks.InputError(f"{launcher} started {here} processes a machine, and devices is {devices}")
        if nodes not in (1, machines):
            raise checks.InputError(f"{launcher} started processes on {machines} machines, and nodes is {nodes}")
        devices, nodes = here, machines
    elif nodes > 1 and "NODE_RANK" not in os.environ:
        raise checks.InputError(
            f"nodes is {nodes}: start the run on each machine by torchrun or srun, or set NODE_RANK, MASTER_ADDR and "
            "MASTER_PORT there"
        )
    present = torch.cuda.device_count() if kind == "cuda" else 1
    count = devices if isinstance(devices, int) else present if devices == "auto" else 1
    if kind == "cuda" and count > present:
        raise checks.InputError(f"devices is {count}, and this machine has {present} GPUs")
    if kind == "mps" and count * nodes > 1:
        raise checks.InputError(f"device 'mps' runs one process, got devices {count} and nodes {nodes}")
    return count, nodes


def launched() -> tuple[str, int, int] | None:
    """Name of the launcher that started this process, processes a machine, and machines; None without one."""
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" in environment:
        here = int(environment["LOCAL_WORLD_SIZE"])
        return "torchrun", here, int(environment["WORLD_SIZE"]) // here
    # Inside an allocation but without srun, or in an interactive shell, there is one process, which may start others.
    if "SLURM_PROCID" in environment and environment.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        machines = int(environment.get("SLURM_NNODES", "1"))
        total = int(environment.get("SLURM_NTASKS", environment.get("SLURM_NPROCS", "1")))
        return "srun", max(total // machines, 1), machines
    return None
