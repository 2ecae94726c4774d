"""One run of a study in a process of its own: python -m attnconv.study.one_run STUDY ARM SEED.

It goes on with what is in the run's folder, or begins it. Exit codes: 0 the run is done, or has diverged and
diverged.json says so; 1 it failed, as failed.json says; 130 or 143 a signal came, and the run is saved. Its stdin is a
pipe from the process that started it: a line there lets it begin, so that it can load its libraries, which takes as
long as a small run, while the run before it is under way. Where the other process ends, by whatever, this one saves its
run and ends too.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attnconv.signals import leave
from attnconv.study.folder import StudyFolder
from attnconv.study.plan import PlannedRun
from attnconv.study.records import result_of

DONE, FAILED, INTERRUPTED, TERMINATED = 0, 1, 130, 143
BEGIN = b"begin\n"
PATIENCE = 120.0  # seconds for the process before this one, whose parent was killed, to save the run and let go of it


def main(arguments: Sequence[str]) -> int:
    study, arm, seed = arguments
    if is_first():
        load()
        if not os.read(0, len(BEGIN)):
            return TERMINATED
    threading.Thread(target=end_with_parent, daemon=True).start()
    folder = StudyFolder(Path(study))
    plan = folder.study()
    planned = PlannedRun(arm, int(seed), plan.config(arm, int(seed)))
    from attnconv.signals import Terminated

    try:
        train(folder, planned, threads=plan.threads)
    except Terminated:
        return TERMINATED
    except KeyboardInterrupt:
        return INTERRUPTED
    return FAILED if folder.note(planned, "failed") else DONE


def is_first() -> bool:
    """Whether this is the first of the several processes that a run may have; it has started the others."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def load() -> None:
    """Import what every run needs."""
    import lightning_fabric  # noqa: F401

    import attnconv.bench.cost
    import attnconv.recipes  # noqa: F401


def end_with_parent() -> None:
    """Wait for the end of stdin, and be terminated then."""
    with contextlib.suppress(OSError, ValueError):
        while os.read(0, 1024):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


def train(folder: StudyFolder, planned: PlannedRun, *, threads: int | None) -> None:
    """Run it, and leave a note where it comes to no result."""
    import torch

    from attnconv.recipes import run
    from attnconv.train.evaluate import Diverged

    first = is_first()
    if threads is not None:
        torch.set_num_threads(threads)
    out = folder.run(planned)
    try:
        if first:
            wait_for(out.path)
            if result_of(folder, planned) is None:
                folder.forget_note(planned, "result")  # a damaged one; the last checkpoint makes it anew
        with loading(folder, first) as loaded:

            def ready(model: Any, data: Any) -> None:
                loaded()
                note_facts(folder, planned, model, data)

            run(planned.config, out.path, resume=out.holds_run(), ready=ready)
    except Diverged as error:
        folder.write_note(planned, "diverged", {"reason": str(error), "step": error.step})
    except Exception as error:
        if not first:
            raise
        reason = " ".join(str(error).split()) or "no reason given"
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        folder.write_note(planned, "failed", {"reason": f"{kind}{reason}"})
        import traceback

        traceback.print_exc()


def wait_for(path: Path) -> None:
    """Until nobody trains into the folder, or for as long as saving can take: then `fit` says that somebody does."""
    from attnconv.files import is_locked

    end = time.monotonic() + PATIENCE
    while is_locked(path) and time.monotonic() < end:
        time.sleep(0.2)


@contextlib.contextmanager
def loading(folder: StudyFolder, first: bool) -> Iterator[Any]:
    """One run of a study loads its data at a time, since that may be a download; what it yields says "loaded".

    Of the several processes of a run the ``first`` alone holds the lock; it sees to the others itself.
    """
    from filelock import FileLock

    lock = FileLock(folder.path / "loading.lock")
    if first:
        lock.acquire()
    try:
        yield lock.release
    finally:
        lock.release()


def note_facts(folder: StudyFolder, planned: PlannedRun, model: Any, data: Any) -> None:
    """Write facts.json: what the run is, and one entry for each process that has worked on it."""
    import torch

    from attnconv.bench.cost import cost
    from attnconv.bench.machine import cpu_name
    from attnconv.train.device import choose_device, provenance

    counted = cost(model, in_channels=data.channels, image_size=data.image_size)
    origin = provenance(choose_device(planned.config.device))
    session = {
        "version": origin["attnconv"],
        "commit": origin["commit"],
        "torch": origin["torch"],
        "device": origin["device"],
        "machine": f"{cpu_name()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
    }
    facts = {
        "params": counted.params,
        "flops": counted.flops,
        "images": data.num_train,
        "classes": len(data.classes),
        "sessions": [*folder.facts(planned).get("sessions", ()), session],
    }
    folder.write_note(planned, "facts", facts)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
