"""Progress of a run on stderr: a line an epoch, and on a terminal two live bars below them."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from attnconv.shown import shown

if TYPE_CHECKING:
    from attnconv.train.evaluate import TrainSums

Item = TypeVar("Item")


def tracked(items: Iterable[Item], *, total: int, text: str, shown: bool = True) -> Iterator[Item]:
    """``items`` one by one, with a bar on stderr if that is a terminal."""
    if not shown or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, description=text, total=total, console=Console(stderr=True), transient=True)


class Display:
    """A context in which two bars are shown: the epochs, and the batches of what is done in one of them.

    ``shown=False`` shows nothing at all.
    """

    def __init__(self, shown: bool, *, epochs: int, batches: int) -> None:
        self.shown, self.epochs, self.batches = shown, epochs, batches
        self.bars = None
        self._epoch: int | None = None  # the one in training, from 0
        if shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), MofNCompleteColumn(), BarColumn(20), TimeRemainingColumn())
            console = Console(stderr=True, highlight=False)
            self.bars = Progress(*columns, TextColumn("{task.fields[note]}"), console=console, transient=True)
            self._run = self.bars.add_task("epochs", total=epochs, note="")
            self._part = self.bars.add_task("", total=None, note="")

    def __enter__(self) -> Self:
        if self.bars:
            self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bars:
            self.bars.stop()

    def training(self, epoch: int, batch: int) -> None:
        """Begin to show the batches of ``epoch``, of which ``batch`` are done; it counts the epochs done, too."""
        self._epoch = epoch
        if self.bars:
            self.bars.reset(self._part, total=self.batches, completed=batch, description="training", note="")
            self.bars.update(self._run, completed=epoch + batch / self.batches)

    def validating(self, batches: int) -> None:
        """Begin to show so many batches of validation."""
        self._epoch = None
        if self.bars:
            self.bars.reset(self._part, total=batches, description="validation", note="")

    def batch_done(self) -> None:
        """Move the bars."""
        if self.bars:
            self.bars.advance(self._part)
            if self._epoch is not None:
                done = self.bars.tasks[self._part].completed
                self.bars.update(self._run, completed=self._epoch + done / self.batches)

    def sums_known(self, sums: "TrainSums") -> None:
        """Show the numbers of the epoch so far."""
        if self.bars:
            numbers = f"loss {sums.mean_loss:.3f} top-1 {sums.top1:.1f}% {sums.images_per_second:.0f} images/s"
            self.bars.update(self._part, note=numbers)

    def epoch_done(self, row: Mapping[str, Any]) -> None:
        """Print the line of an epoch: ``row`` of metrics.csv."""
        miou = f", mean IoU {row['val_miou']:.2f}%" if "val_miou" in row else ""
        self.line(
            f"epoch {row['epoch']}/{self.epochs}: train loss {row['train_loss']:.3f}, top-1 {row['train_top1']:.2f}%; "
            f"val loss {row['val_loss']:.3f}, top-1 {row['val_top1']:.2f}%, top-5 {row['val_top5']:.2f}%{miou}; "
            f"{row['images_per_second']:.0f} images/s"
        )

    def note(self, text: str) -> None:
        self.line(f"note: {text}")

    def line(self, text: str) -> None:
        text = shown(text)
        if self.bars:
            self.bars.console.print(text, markup=False, soft_wrap=True)
        elif self.shown:
            try:
                print(text, file=sys.stderr, flush=True)
            except BrokenPipeError:  # nobody reads any more: the run goes on in silence
                self.shown = False
                sys.stderr = open(os.devnull, "w")  # noqa: SIM115  for the rest of the process
