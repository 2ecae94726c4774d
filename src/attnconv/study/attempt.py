"""One run as a child process, begun again from its last checkpoint if something kills it.

Both executors start runs through here, so that a run is the same process with the same threads under either, and a
fault of one, an end for want of memory say, is no fault of the study.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from attnconv import files
from attnconv.study.folder import StudyFolder
from attnconv.study.one_run import BEGIN, INTERRUPTED, TERMINATED
from attnconv.study.plan import PlannedRun

COMMAND = ("-m", "attnconv.study.one_run")
RETRIES = 2  # times that a run is begun again after its process, or its Ray worker, was killed
PATIENCE = 60.0  # seconds for a process that is told to stop to finish its step and save

# What a launcher has told this process is not for its children: each starts its own processes, if it has several.
OF_LAUNCHERS = ("SLURM_", "TORCHELASTIC_")
OF_RANKS = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "NODE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)


class Attempt:
    """A run under way. Making it starts the process, which without ``begin`` loads its libraries and waits for it."""

    def __init__(
        self,
        folder: StudyFolder,
        planned: PlannedRun,
        *,
        threads: int,
        environment: Mapping[str, str] | None = None,
        begin: bool = True,
    ) -> None:
        self.folder, self.planned, self.begun = folder, planned, begin
        self.environment = child_environment(threads) | dict(environment or {})
        self.tries = 0
        folder.forget_note(planned, "failed")
        self._start()

    def _start(self) -> None:
        log = self.folder.log(self.planned)
        log.parent.mkdir(parents=True, exist_ok=True)
        files.require_if_there(log)
        arguments = [str(self.folder.path.resolve()), self.planned.arm, str(self.planned.seed)]
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, *COMMAND, *arguments],
                stdin=subprocess.PIPE,  # after the word to begin, its end tells the child that this process is no more
                stdout=file,
                stderr=file,
                env=self.environment,
                start_new_session=True,  # Ctrl-C comes to this process, which tells the child
            )
        self.tries += 1
        if self.begun:
            self.begin()

    def begin(self) -> None:
        """Let the process begin with the run."""
        self.begun = True
        with contextlib.suppress(BrokenPipeError):  # it has been killed: `ended` will see
            assert self.process.stdin is not None
            self.process.stdin.write(BEGIN)
            self.process.stdin.flush()

    def ended(self) -> bool:
        """Whether the run has come to an end; one whose process was killed is begun again, at most RETRIES times."""
        if (code := self.process.poll()) is None:
            return False
        self._close()
        if killed(code) and self.tries <= RETRIES:
            self._start()
            return False
        self._settle(code)
        return True

    def _settle(self, code: int) -> None:
        """Leave a note if the process could not."""
        if code == 0 or self.folder.note(self.planned, "failed") is not None:
            return
        log = self.folder.log(self.planned)
        reason = f"its process ended with code {code}; see {log}"
        if killed(code):
            name = signal.Signals(-code).name if code < 0 else "a signal"
            reason = (
                f"its process was killed {self.tries} times, at last by {name}, perhaps for want of memory; see {log}"
            )
        self.folder.write_note(self.planned, "failed", {"reason": reason})

    def stop(self) -> None:
        """Tell the process to save the run and end."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()

    def wait(self) -> None:
        """Wait for the end of a process that was told to stop; PATIENCE over, kill it."""
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._close()

    def _close(self) -> None:
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()


def killed(code: int) -> bool:
    """Whether a process that ended with ``code`` was ended by a signal."""
    return code < 0 or code in (INTERRUPTED, TERMINATED)


def child_environment(threads: int) -> dict[str, str]:
    """This process's variables, with ``threads``, without a launcher's, and with this very library."""
    found = {
        name: value for name, value in os.environ.items() if not name.startswith(OF_LAUNCHERS) and name not in OF_RANKS
    }
    found["OMP_NUM_THREADS"] = str(threads)
    root = Path(__file__).resolve().parents[2]
    if root.name != "site-packages":  # a checkout, perhaps on this process's path alone
        found["PYTHONPATH"] = os.pathsep.join(part for part in (str(root), found.get("PYTHONPATH")) if part)
    return found
