"""What a study shows on stderr: a line a run that has ended, and on a terminal a bar over the epochs of all."""

import sys
import time
from collections.abc import Sequence
from typing import Any, Self

from attnconv import files
from attnconv.shown import shown
from attnconv.study.folder import StudyFolder
from attnconv.study.plan import PlannedRun

EVERY = 1.0  # seconds between looks at the runs' files


class StudyProgress:
    """A context in which the bar is shown. ``shown=False`` shows nothing at all.

    Args:
        folder: of the study.
        runs: all of them.
        left: those that are to be done now.
        note: what to say before them.
    """

    def __init__(
        self, folder: StudyFolder, runs: Sequence[PlannedRun], left: Sequence[PlannedRun], *, note: str, shown: bool
    ) -> None:
        self.folder, self.left, self.shown, self.total = folder, list(left), shown, len(runs)
        self.note = note
        self.done = len(runs) - len(left)
        self.bar, self._looked = None, 0.0
        if shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}%"))
            console = Console(stderr=True, highlight=False)
            self.bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
            self.task = self.bar.add_task("", total=sum(planned.config.epochs for planned in left))

    def __enter__(self) -> Self:
        if self.note:
            self._line(self.note)
        if self.done:
            self._line(f"{self.done} of {self.total} runs need nothing more, {len(self.left)} are left")
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar:
            self.bar.stop()

    def tick(self) -> None:
        """Move the bar, if it is time to."""
        if self.bar is None or time.monotonic() - self._looked < EVERY:
            return
        self._looked = time.monotonic()
        epochs = sum(_epochs(self.folder, planned) for planned in self.left)
        self.bar.update(self.task, completed=epochs, description=f"{self.done} of {self.total} runs, epochs")

    def ended(self, record: dict[str, Any]) -> None:
        """Print the line of a run."""
        self.done += 1
        name, state = f"{record['arm']}-seed{record['seed']}", record["state"]
        name_of, value = ("mean IoU", record["miou"]) if "miou" in record else ("top-1", record["top1"])
        outcome = f"{name_of} {value:.2f}%, {record['seconds']:.0f} s" if state == "done" else record["reason"]
        self._line(f"{self.done}/{self.total} {name}: {state}, {outcome}")

    def _line(self, text: str) -> None:
        text = shown(text)
        if self.bar:
            self.bar.console.print(text, markup=False, soft_wrap=True)
        elif self.shown:
            print(text, file=sys.stderr, flush=True)


def _epochs(folder: StudyFolder, planned: PlannedRun) -> int:
    """Epochs that a run has done: the rows of its metrics.csv."""
    try:
        return max(files.read_text(folder.run(planned).metrics, at_most=files.TABLE).count("\n") - 1, 0)
    except (OSError, ValueError):
        return 0
