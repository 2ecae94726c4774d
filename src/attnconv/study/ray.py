"""Ray: each run a task with its CPU threads, GPUs and memory, retried from its last checkpoint when its worker dies.

All machines of the cluster must see the study's folder and have attnconv installed. A task starts the same process as a
study on one machine, which ends with it.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from attnconv import checks
from attnconv.extensions import imported
from attnconv.study.folder import StudyFolder, read_note, write_note
from attnconv.study.plan import PlannedRun, Study
from attnconv.study.process import RETRIES, RunProcess
from attnconv.study.run import Executor, gpus_of

CONNECT = 8.0  # seconds for a port to answer
PROBE = 20.0  # seconds for the answer of a Ray cluster of this version
PAUSE = 0.5
STOPPING = 90.0  # seconds for cancelled tasks to save their runs


@contextlib.contextmanager
def ray_cluster(address: str) -> Iterator[Executor]:
    """Connect to a Ray cluster, or start one here; yield the executor for `run_study`, and disconnect at the end.

    Args:
        address: HOST:PORT, ray://HOST:PORT, "auto" for the cluster that this machine is part of, or "local".
    Raises:
        InputError: Ray is not installed, or no cluster answers there.
    """
    ray: Any = checks.require("ray", extra="ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    before = signal.getsignal(signal.SIGTERM)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if address == "local":
        ray.init(address="local", include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    else:
        require_answer(address)
        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    if in_main_thread:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray's would leave the process where a study saves its runs
    try:
        yield on_ray
    finally:
        ray.shutdown()
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)


def on_ray(folder: StudyFolder, runs: Sequence[PlannedRun], study: Study) -> Generator[PlannedRun]:
    """Do the runs, each a task."""
    import ray

    from attnconv.data.load import DATA_DIR_VARIABLE

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus, memory = (max((node.get(kind, 0) for node in nodes), default=0) for kind in ("CPU", "GPU", "memory"))
    if study.memory_gb is not None and study.memory_gb * 1e9 > memory:
        raise checks.InputError(
            f"memory_gb must be at most {memory / 1e9:.1f}, the largest machine's, got {study.memory_gb:g}"
        )
    needs = {planned.name: gpus_of(planned, int(gpus)) for planned in runs}
    environment = {name: os.environ[name] for name in (DATA_DIR_VARIABLE,) if name in os.environ}
    fresh: Any = ray.remote(max_calls=1)(do_run)  # a worker of its own for each
    tasks = {}
    try:
        for planned in runs:
            task = fresh.options(
                num_cpus=min(study.threads or 1, int(cpus)),
                num_gpus=needs[planned.name],
                memory=int(study.memory_gb * 1e9) if study.memory_gb is not None else None,
                max_retries=RETRIES,
                name=planned.name,
            )
            place = str(folder.path.resolve()), planned.arm, planned.seed
            tasks[task.remote(*place, study.threads, environment, os.getcwd(), imported)] = planned
        while tasks:
            done, _ = ray.wait(list(tasks), timeout=PAUSE)
            for task in done:
                planned = tasks.pop(task)
                _settle(folder, planned, task)
                yield planned
    finally:  # after an exception such as Ctrl-C there are tasks left
        for task in tasks:
            ray.cancel(task, force=False)
        if tasks:
            ray.wait(list(tasks), num_returns=len(tasks), timeout=STOPPING)


def do_run(
    folder: str, arm: str, seed: int, threads: int, environment: dict[str, str], cwd: str, imports: Sequence[str] = ()
) -> None:
    """Do a run as a child process: the work of a task."""
    if os.path.isdir(cwd):
        os.chdir(cwd)  # relative paths of data begin here
    place = StudyFolder(Path(folder))
    if not place.plan.exists():
        raise RuntimeError(f"{socket.gethostname()} does not see {folder}: all machines need the study's folder")
    planned = PlannedRun(arm, seed, place.study().config(arm, seed))
    process = RunProcess(place, planned, threads, environment=environment, imports=imports)
    process.begin()
    try:
        while not process.ended():
            time.sleep(PAUSE)
    finally:
        process.stop()
        process.wait()


def _settle(folder: StudyFolder, planned: PlannedRun, task: Any) -> None:
    """Note why a task failed, if its run did not."""
    import ray
    from ray import exceptions

    try:
        ray.get(task)
    except exceptions.RayError as error:
        if read_note(folder.run(planned).path, "result") is None:
            text = " ".join(str(getattr(error, "cause", error)).split())  # a task's own error
            reason = f"its Ray task failed: {text}; see {folder.log(planned)}"
            write_note(folder.run(planned), "failed", {"reason": reason})


def require_answer(address: str) -> None:
    """Raise InputError unless a Ray cluster answers at ``address``, within half a minute.

    ray.init itself retries for minutes and ends the process when it gives up: hence the port is tried first, then
    another process.
    """
    if address != "auto":
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if not host or not port.isdigit():
            raise checks.InputError(f"--ray must be HOST:PORT, ray://HOST:PORT, auto or local, got {address!r}")
        with checks.explained(f"no Ray cluster answers at {address}", OSError, OverflowError):
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT).close()
    code = "import ray, sys; ray.init(address=sys.argv[1], logging_level='ERROR', log_to_driver=False)"
    command = [sys.executable, "-c", code, address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise checks.InputError(f"no Ray cluster answers at {address}: not within {PROBE:.0f} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise checks.InputError(f"no Ray cluster answers at {address}: {lines[-1] if lines else 'no reason given'}")
