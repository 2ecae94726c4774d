"""A run of a study as a process: `attnconv train`, restarted from its last checkpoint if something kills it.

The study writes the run's config.yaml and starts ``attnconv train --resume --of-study --out RUN``, which begins the run
or goes on with it. The process is the same on this machine and under Ray, and its death does not stop the study. Its
stdin is a pipe from the study. A line lets it begin: meanwhile it loads its libraries, which takes as long as a small
run. The end of the pipe means that the study has ended, and the run saves itself and ends too.
"""

import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attnconv import files
from attnconv.extensions import imported, is_factory
from attnconv.study.folder import StudyFolder, facts_of, result_of, write_note
from attnconv.study.plan import PlannedRun
from attnconv.train.config import read_yaml, yaml_text
from attnconv.train.run_folder import RunFolder

COMMAND = ("-m", "attnconv", "train", "--resume", "--of-study", "--out")
BEGIN = b"\n"
RETRIES = 2  # restarts of a run whose process, or Ray worker, was killed
PATIENCE = 60.0  # seconds in which a process that is told to stop finishes its step and saves
SIGNALLED = (130, 143)  # exit codes of `attnconv` after Ctrl-C and SIGTERM
ERROR = "attnconv: error: "  # begins the line in which `attnconv` says why it ended
# In the message of attnconv.train.evaluate.Diverged.
DIVERGED = re.compile(r" at step (\d+) \(lr .*last good checkpoint: ")

# Variables of a launcher, which the children do not get: each starts its own processes, if it has several.
OF_LAUNCHERS = (
    *("SLURM_", "TORCHELASTIC_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK"),
    *("MASTER_ADDR", "MASTER_PORT"),
)


class RunProcess:
    """A run under way. The constructor starts the process, which loads its libraries and waits for `begin`.

    Args:
        threads: CPU threads.
        gpus: names of the GPUs that the process may see; all that this one sees if empty.
        environment: more variables.
        imports: modules of the user's own, which this process has imported.
    """

    def __init__(
        self,
        folder: StudyFolder,
        planned: PlannedRun,
        threads: int | None,
        *,
        gpus: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        imports: Sequence[str] = imported,
    ) -> None:
        self.folder, self.planned = folder, planned
        self.environment = child_environment(threads or 1) | dict(environment or {})
        if gpus:
            self.environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        self.code = [f"--import={name}" for name in imports]
        if is_factory(model := planned.config.model):
            self.code += ["--model", model]
        self.tries, self.begun = 0, False
        self._start()

    def _start(self) -> None:
        log = self.folder.log(self.planned)
        log.parent.mkdir(parents=True, exist_ok=True)
        files.require_if_there(log)
        with log.open("ab") as file:
            self.logged = file.tell()
            self.process = subprocess.Popen(
                [sys.executable, *COMMAND, str(self.folder.run(self.planned).path.resolve()), *self.code],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                env=self.environment,
                start_new_session=True,  # Ctrl-C comes to this process, which tells the child
            )
        self.tries += 1
        if self.begun:
            self.begin()

    def begin(self) -> None:
        """Write the run's config.yaml and let the process begin with it."""
        self.begun = True
        begin_run(self.folder, self.planned)
        with contextlib.suppress(BrokenPipeError):  # it was killed, which `ended` notices
            assert self.process.stdin is not None
            self.process.stdin.write(BEGIN)
            self.process.stdin.flush()

    def ended(self) -> bool:
        """True if the run has ended; a killed process is restarted, at most RETRIES times."""
        if (code := self.process.poll()) is None:
            return False
        self._close()
        if killed(code) and self.tries <= RETRIES:
            self._start()
            return False
        printed = files.read_bytes(self.folder.log(self.planned), at_most=files.TABLE)[self.logged :]
        note_end(self.folder, self.planned, code, printed.decode(errors="replace"), tries=self.tries)
        return True

    def stop(self) -> None:
        """Tell the process to save the run and end."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()

    def wait(self) -> None:
        """Wait PATIENCE seconds for the end of a process that was told to stop, then kill it."""
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._close()
        if (run := self.folder.run(self.planned)).path.exists():
            run.forget_empty_run()

    def _close(self) -> None:
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()


def begin_run(folder: StudyFolder, planned: PlannedRun) -> None:
    """Write the run's config.yaml; remove an earlier failure, and a damaged result, which the checkpoint makes anew."""
    run = folder.run(planned)
    files.make_folder(run.path)
    files.write(run.config, yaml_text(planned.config.to_dict(), sort_keys=False))
    for name in ("failed",) if result_of(run.path) else ("failed", "result"):
        (run.path / f"{name}.json").unlink(missing_ok=True)


def note_end(folder: StudyFolder, planned: PlannedRun, code: int, printed: str, *, tries: int = 1) -> None:
    """Write diverged.json or failed.json with the reason that it ``printed``, if the process left no result."""
    if code == 0:
        return
    run, log = folder.run(planned), folder.log(planned)
    lines = [line for line in printed.splitlines() if line.strip()]
    said = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]  # several processes: the first counts
    reason = (said or lines[-1:] or [f"its process ended with code {code}; see {log}"])[0]
    if killed(code):
        name = signal.Signals(-code).name if code < 0 else "a signal"
        reason = f"its process was killed {tries} times, at last by {name}, perhaps for want of memory; see {log}"
    files.make_folder(run.path)
    run.forget_empty_run()
    if diverged := not killed(code) and DIVERGED.search(reason):
        write_note(run, "diverged", {"reason": reason, "step": int(diverged[1])})
    else:
        write_note(run, "failed", {"reason": reason})


def killed(code: int) -> bool:
    """True if a signal ended the process that exited with ``code``."""
    return code < 0 or code in SIGNALLED


def child_environment(threads: int) -> dict[str, str]:
    """Return this process's variables with ``threads`` and this library's path, without those of a launcher."""
    found = {name: value for name, value in os.environ.items() if not name.startswith(OF_LAUNCHERS)}
    found |= {"OMP_NUM_THREADS": str(threads), "ATTNCONV_TRACEBACK": "1"}  # the log has room for a traceback
    root = Path(__file__).resolve().parents[2]
    if root.name != "site-packages":  # a checkout, perhaps on this process's path alone
        found["PYTHONPATH"] = os.pathsep.join(part for part in (str(root), found.get("PYTHONPATH")) if part)
    return found


def await_study(out: Path) -> Callable[[Any, Any], None]:
    """Load a run's libraries in its process and wait until the study lets it begin; from then on, end with the study.

    Returns `note_facts`, for the network and the images.
    """
    from attnconv.signals import Terminated

    if os.environ.get("LOCAL_RANK", "0") == "0":  # the first of the run's processes, which starts the others
        import lightning_fabric  # noqa: F401

        import attnconv.bench.cost
        import attnconv.recipes  # noqa: F401

        if not os.read(0, len(BEGIN)):
            raise Terminated
        end = time.monotonic() + 2 * PATIENCE  # for a process before this one, whose study was killed, to save the run
        while files.is_locked(out) and time.monotonic() < end:
            time.sleep(0.2)
    threading.Thread(target=_end_with_study, daemon=True).start()
    return functools.partial(note_facts, out)


def _end_with_study() -> None:
    """Wait for the end of stdin, then terminate this process."""
    with contextlib.suppress(OSError):
        while os.read(0, 1024):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


def note_facts(out: Path, model: Any, data: Any) -> None:
    """Write facts.json in the run's process: the network's size, and one entry for each process that worked on it."""
    import torch

    from attnconv.bench.cost import cost
    from attnconv.bench.machine import cpu_name
    from attnconv.train.device import choose_device, provenance

    counted = cost(model, in_channels=data.channels, image_size=data.image_size)
    config = read_yaml(RunFolder(out).config)
    made = provenance(choose_device(config["device"]))
    session = {
        "version": made["attnconv"],
        **{name: made[name] for name in ("commit", "torch", "device")},
        "machine": f"{cpu_name()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "code": own_code(config["model"]),
    }
    facts = {
        "params": counted.params,
        "flops": counted.flops,
        "images": data.num_train,
        "classes": len(data.classes),
        "sessions": [*facts_of(out).get("sessions", ()), session],
    }
    write_note(RunFolder(out), "facts", facts)


def own_code(model: str) -> str | None:
    """Return the user's modules behind a run, each with the start of its file's SHA-256; None if there are none."""
    names: dict[str, None] = dict.fromkeys([*imported, *([model.partition(":")[0]] if is_factory(model) else [])])
    sources = {name: getattr(sys.modules[name], "__file__", None) for name in names}
    return ", ".join(f"{name} {files.digest(file)[:12] if file else '-'}" for name, file in sources.items()) or None
