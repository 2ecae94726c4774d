"""What a run shows on stderr: a line an epoch, and on a terminal a live bar below them."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, TypeVar

from attnconv.train.train_sums import TrainSums

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
    """A context in which the bar is shown. ``shown=False`` shows nothing at all."""

    def __init__(self, shown: bool, *, epochs: int, batches: int, step: int) -> None:
        self.shown, self.epochs, self.batches = shown, epochs, batches
        self.bar = None
        if shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}%"))
            console = Console(stderr=True, highlight=False)
            self.bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
            self.task = self.bar.add_task("", total=epochs * batches, completed=step)

    def __enter__(self) -> Self:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar:
            self.bar.stop()

    def batch_done(self, epoch: int, batch: int, sums: TrainSums) -> None:
        """Move the bar: ``epoch`` and ``batch`` count what is done of the run and of this epoch."""
        if self.bar:
            text = (
                f"epoch {epoch + 1}/{self.epochs} batch {batch}/{self.batches} loss {sums.mean_loss:.3f} "
                f"top-1 {sums.top1:.1f}% {sums.images_per_second:.0f} images/s"
            )
            self.bar.update(self.task, completed=epoch * self.batches + batch, description=text)

    def epoch_done(self, row: Mapping[str, Any]) -> None:
        """Print the line of an epoch: ``row`` of metrics.csv."""
        self.line(
            f"epoch {row['epoch']}/{self.epochs}: train loss {row['train_loss']:.3f}, top-1 {row['train_top1']:.2f}%; "
            f"val loss {row['val_loss']:.3f}, top-1 {row['val_top1']:.2f}%, top-5 {row['val_top5']:.2f}%; "
            f"{row['images_per_second']:.0f} images/s"
        )

    def line(self, text: str) -> None:
        if self.bar:
            self.bar.console.print(text, markup=False, soft_wrap=True)
        elif self.shown:
            try:
                print(text, file=sys.stderr, flush=True)
            except BrokenPipeError:  # nobody reads any more: the run goes on in silence
                self.shown = False
                sys.stderr = open(os.devnull, "w")  # noqa: SIM115  for the rest of the process
