"""Progress of a run on stderr: a header, a row an epoch, and on a terminal two live bars below them."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from attnconv.shown import shown

if TYPE_CHECKING:
    from attnconv.train.evaluate import TrainSums

Item = TypeVar("Item")

# Columns of an epoch's row: heading, name in metrics.csv, format. A narrow terminal loses them from the last one on.
COLUMNS = (
    ("loss", "train_loss", "7.3f"),
    ("top-1 %", "train_top1", ".2f"),
    ("val loss", "val_loss", ".3f"),
    ("val top-1 %", "val_top1", ".2f"),
    ("val IoU %", "val_miou", ".2f"),
    ("val top-5 %", "val_top5", ".2f"),
    ("images/s", "images_per_second", ",.0f"),
)


def tracked(items: Iterable[Item], *, total: int, text: str, shown: bool = True) -> Iterator[Item]:
    """Yield ``items`` one by one, with a bar on stderr if that is a terminal."""
    if not shown or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, description=text, total=total, console=Console(stderr=True), transient=True)


class Display:
    """A context in which two bars are shown: the epochs, and the batches of the current one.

    Args:
        shown: False shows nothing at all.
        epochs: of the run.
        batches: training batches an epoch.
        top5: show top-5 accuracy, which says little of few classes.
    """

    def __init__(self, shown: bool, *, epochs: int, batches: int, top5: bool = False) -> None:
        self.shown, self.epochs, self.batches, self.top5 = shown, epochs, batches, top5
        self.bars = None
        self._headed = False
        self._epoch: int | None = None  # the one in training, from 0
        if shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            console = Console(stderr=True, highlight=False)
            self.bars = Progress(
                TextColumn("{task.description}"),
                MofNCompleteColumn(),
                BarColumn(min(40, max(8, console.width - 72))),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[note]}"),
                console=console,
                transient=True,
            )
            self._run = self.bars.add_task("epochs", total=epochs, note="")
            self._part = self.bars.add_task("", total=None, note="")

    def __enter__(self) -> Self:
        if self.bars:
            self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bars:
            self.bars.stop()

    def header(self, facts: Mapping[str, str]) -> None:
        """Print what the run is, a line a fact."""
        for name, text in facts.items():
            self.line(f"{name:9}{text}")

    def training(self, epoch: int, batch: int) -> None:
        """Show the batches of ``epoch``, after ``batch`` of them, and count the epochs done."""
        self._epoch = epoch
        if self.bars:
            self.bars.reset(self._part, total=self.batches, completed=batch, description="steps", note="")
            self.bars.update(self._run, completed=epoch + batch / self.batches)

    def validating(self, batches: int) -> None:
        """Show ``batches`` batches of validation."""
        self._epoch = None
        if self.bars:
            self.bars.reset(self._part, total=batches, description="validation", note="")

    def batch_done(self) -> None:
        """Advance the bars."""
        if self.bars:
            self.bars.advance(self._part)
            if self._epoch is not None:
                done = self.bars.tasks[self._part].completed
                self.bars.update(self._run, completed=self._epoch + done / self.batches)

    def sums_known(self, sums: "TrainSums", lr: float) -> None:
        """Show the numbers of the epoch so far, and the learning rate of the last step."""
        if self.bars:
            pace = f"{sums.images_per_second:,.0f} images/s"
            numbers = f"loss {sums.mean_loss:.3f} top-1 {sums.top1:.1f}% lr {lr:.2g} {pace}"
            self.bars.update(self._part, note=numbers)

    def epoch_done(self, row: Mapping[str, Any]) -> None:
        """Print an epoch's ``row`` of metrics.csv; before the first one, the names of its columns."""
        width = len(f"epoch {self.epochs}/{self.epochs}")
        cells = [("epoch".ljust(width), f"epoch {row['epoch']}/{self.epochs}".ljust(width))]
        for heading, key, form in COLUMNS:
            if key in row and (self.top5 or key != "val_top5"):
                value = format(row[key], form)
                width = max(len(heading), len(value))
                cells.append((heading.rjust(width), value.rjust(width)))
        while self.bars and sum(len(heading) + 2 for heading, _ in cells) - 2 > self.bars.console.width:
            cells.pop()
        for line in list(zip(*cells, strict=True))[self._headed :]:
            self.line("  ".join(line))
        self._headed = True

    def note(self, text: str) -> None:
        """Print a sentence about the run."""
        self.line(f"note: {text}")

    def line(self, text: str) -> None:
        """Print a line above the bars."""
        text = shown(text)
        if self.bars:
            self.bars.console.print(text, markup=False, soft_wrap=True)
        elif self.shown:
            try:
                print(text, file=sys.stderr, flush=True)
            except BrokenPipeError:  # nobody reads any more: the run goes on in silence
                self.shown = False
                sys.stderr = open(os.devnull, "w")  # noqa: SIM115  for the rest of the process
