"""The processes of a run: their number, their start, their exchange of values, and their common end."""

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from attnconv import checks

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")

FAILED = 2  # exit code of the other processes after a bad input, which the first one reports
STARTED_BY = "ATTNCONV_FIRST_PROCESS"  # environment variable: number of the process that starts the others
PAUSE, PATIENCE = 1.0, 20.0  # seconds: between looks, and for a process to end by itself with a better message


def process_count(kind: str, devices: int | str | None, nodes: int) -> tuple[int, int]:
    """Return the number of processes per machine, and of machines.

    Args:
        kind: device type, "cpu", "cuda" or "mps".
        devices: a number, "auto" for all GPUs of the machine, or None for one. Under a launcher its number counts, and
            ``devices`` must agree with it.
        nodes: machines.
    Raises:
        InputError: the launcher started other numbers, or the machine has fewer devices.
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
    """Return the launcher that started this process, processes per machine, and machines; None without a launcher."""
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


def launch(start: Callable[[], object]) -> None:
    """Call ``start``, which may start the other processes of a run; each of these ends when the first one has ended.

    The environment variable marks them. It is set only while ``start`` runs, so that later subprocesses are not marked.
    """
    first = os.getppid()  # now: it may be gone when ``start`` is done
    is_started = os.environ.get(STARTED_BY) == str(first)
    os.environ[STARTED_BY] = str(os.getpid())
    try:
        start()
    finally:
        del os.environ[STARTED_BY]
    if is_started:
        threading.Thread(target=_watch_parent, args=(first,), daemon=True).start()


def _watch_parent(first: int) -> None:
    """End this process after the first one, which may have been killed.

    Gloo reports that at once, but NCCL waits for half an hour. Fabric covers the other direction: the first process
    watches those that it has started.
    """
    while os.getppid() == first:
        time.sleep(PAUSE)
    time.sleep(PATIENCE)
    text = "the first process of this run has ended; --resume goes on from the last checkpoint"
    print(f"attnconv: error: {text}", file=sys.stderr, flush=True)
    os._exit(1)


class Ranks:
    """The processes of a launched ``fabric``. All of them must make the same calls in the same order."""

    def __init__(self, fabric: "Fabric") -> None:
        self.fabric = fabric
        self.rank, self.world = fabric.global_rank, fabric.world_size

    @property
    def first(self) -> bool:
        """True in the process that writes files and messages."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over the processes."""
        if self.world == 1:
            return values
        total = self.fabric.all_reduce(values, reduce_op="sum")
        assert isinstance(total, Tensor)
        return total

    def gather(self, value: T) -> list[T]:
        """Return the processes' values, each of which can be pickled."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(found, value)
        return found

    def on_first(self, work: Callable[[], T]) -> T:
        """Return in all processes the result of ``work`` in the first; an InputError there ends the others silently.

        The result must be small and plain.
        """
        answer: Any = None
        failure: checks.InputError | None = None
        if self.first:
            try:
                answer = work()
            except checks.InputError as error:
                failure = error
        if self.world > 1:
            answer, failed = self.fabric.broadcast((answer, failure is not None))
            if failed and not self.first:
                raise SystemExit(FAILED)
        if failure is not None:
            raise failure
        return answer

    def first_then_others(self, work: Callable[[], T]) -> T:
        """Do ``work``, such as a download, in the first process and then in the others; return each one's result."""
        results = []
        self.on_first(lambda: results.append(work()))
        return results[0] if self.first else work()


def is_first_process() -> bool:
    """True in the only or the first process of a run."""
    available = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not available or torch.distributed.get_rank() == 0
