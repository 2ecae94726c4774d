"""Ray: each run a task with its CPU threads, GPUs and memory, retried from its last checkpoint when its worker dies.

The study's folder must be one that all machines of the cluster see, as a checkpoint on another machine is none, and
attnconv must be installed on each. A task starts the same process as `attnconv.study.local` does, which ends with it.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from attnconv import checks
from attnconv.study.attempt import RETRIES, Attempt
from attnconv.study.executor import Ended, Tick, gpus_of
from attnconv.study.folder import StudyFolder
from attnconv.study.plan import PlannedRun

CONNECT = 8.0  # seconds for a port to answer
PROBE = 20.0  # seconds for what answers to be a Ray cluster of this version
PAUSE = 0.5
STOPPING = 90.0  # seconds for cancelled tasks to save their runs


class RayCluster:
    """The executor of a Ray cluster, or of a Ray that is started here for the study. A context, which disconnects.

    Args:
        address: HOST:PORT, ray://HOST:PORT, "auto" for the cluster that this machine is part of, or "local".
    Raises:
        InputError: Ray is not installed, or nothing of the kind answers there.
    """

    def __init__(self, address: str) -> None:
        checks.require("ray", extra="ray")
        self.address = address
        self.threads = max(1, torch.get_num_threads() // max(1, torch.cuda.device_count()))

    def __enter__(self) -> "RayCluster":
        import ray

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        self._before = signal.getsignal(signal.SIGTERM)
        if self.address == "local":
            ray.init(address="local", include_dashboard=False, **options)
        else:
            require_answer(self.address)
            ray.init(address=self.address, **options)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray's would leave the process where a study saves its runs
        return self

    def __exit__(self, *error: object) -> None:
        import ray

        ray.shutdown()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._before)

    def execute(
        self,
        folder: StudyFolder,
        runs: Sequence[PlannedRun],
        *,
        threads: int,
        memory_gb: float | None,
        ended: Ended,
        tick: Tick,
    ) -> None:
        """As `Executor`."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus, gpus = (int(max((node.get(kind, 0) for node in nodes), default=0)) for kind in ("CPU", "GPU"))
        memory = max((node.get("memory", 0) for node in nodes), default=0)
        if memory_gb is not None and memory_gb * 1e9 > memory:
            raise checks.InputError(
                f"memory_gb is {memory_gb:g}, and no machine of the cluster has more than {memory / 1e9:.1f}"
            )
        needs = {planned.name: gpus_of(planned, gpus) for planned in runs}
        names = ("ATTNCONV_DATA", "ATTNCONV_TRACEBACK")
        environment = {name: os.environ[name] for name in names if name in os.environ}
        fresh: Any = ray.remote(max_calls=1)(do_run)  # a worker of its own for each
        tasks = {}
        try:
            for planned in runs:
                task = fresh.options(
                    num_cpus=min(threads, cpus),
                    num_gpus=needs[planned.name],
                    memory=int(memory_gb * 1e9) if memory_gb is not None else None,
                    max_retries=RETRIES,
                    name=planned.name,
                )
                place = str(folder.path.resolve()), planned.arm, planned.seed
                tasks[task.remote(*place, threads, environment, os.getcwd())] = planned
            while tasks:
                done, _ = ray.wait(list(tasks), timeout=PAUSE)
                for task in done:
                    planned = tasks.pop(task)
                    _settle(folder, planned, task)
                    ended(planned)
                tick()
        finally:  # there are tasks left where an exception came, Ctrl-C among them
            for task in tasks:
                ray.cancel(task, force=False)
            if tasks:
                ray.wait(list(tasks), num_returns=len(tasks), timeout=STOPPING)


def do_run(folder: str, arm: str, seed: int, threads: int, environment: dict[str, str], cwd: str) -> None:
    """What a task does: the run as a child process, and the child's end with its own."""
    if os.path.isdir(cwd):
        os.chdir(cwd)  # where relative paths of data begin
    place = StudyFolder(Path(folder))
    if not place.plan.exists():
        raise RuntimeError(f"{socket.gethostname()} does not see {folder}: all machines need the study's folder")
    planned = PlannedRun(arm, seed, place.study().config(arm, seed))
    attempt = Attempt(place, planned, threads=threads, environment=environment)
    try:
        while not attempt.ended():
            time.sleep(PAUSE)
    finally:
        attempt.stop()
        attempt.wait()


def _settle(folder: StudyFolder, planned: PlannedRun, task: Any) -> None:
    """Note why a task failed, if its run could not."""
    import ray
    from ray import exceptions

    try:
        ray.get(task)
    except exceptions.WorkerCrashedError:
        reason = f"its Ray worker died {RETRIES + 1} times; see {folder.log(planned)}"
    except exceptions.RayTaskError as error:
        reason = f"its Ray task failed: {error.cause}"
    except exceptions.RayError as error:
        reason = f"Ray: {' '.join(str(error).split())}"
    else:
        return
    if folder.note(planned, "result") is None:
        folder.write_note(planned, "failed", {"reason": reason})


def require_answer(address: str) -> None:
    """Raise InputError unless a Ray cluster answers at ``address``, within half a minute.

    ray.init itself retries for minutes, and ends the process where it gives up: hence the port is tried first, and then
    another process.
    """
    if address != "auto":
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if not host or not port.isdigit():
            raise checks.InputError(f"--ray must be HOST:PORT, ray://HOST:PORT, auto or local, got {address!r}")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT).close()
        except (OSError, OverflowError) as error:
            raise checks.InputError(f"no Ray cluster answers at {address}: {error}") from None
    code = "import ray, sys; ray.init(address=sys.argv[1], logging_level='ERROR', log_to_driver=False)"
    command = [sys.executable, "-c", code, address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise checks.InputError(f"no Ray cluster answers at {address}: not within {PROBE:.0f} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise checks.InputError(f"no Ray cluster answers at {address}: {lines[-1] if lines else 'no reason given'}")
