"""Where the numbers of a run go beside metrics.csv: to TensorBoard, or to Weights & Biases.

A service that fails is a line on stderr and never the end of a run.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from attnconv import checks
from attnconv.train.config import RunConfig


class Service(Protocol):
    """An open record of one run."""

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows of metrics.csv."""
        ...

    def close(self, failed: bool) -> None: ...


def require_service(config: RunConfig) -> None:
    """Raises InputError, which names the extra to install, if the package that ``config.track`` needs is missing."""
    if config.track != "none":
        checks.require(config.track, extra="track")


class Tracker:
    """The service of ``config.track`` as it follows a run, closed at the end of the context; none where that is "none".

    Args:
        folder: of the run.
        fresh: whether the run begins here, and not the going on of one.
        say: shows a line.
        active: whether this is the process that speaks for the run.
    """

    def __init__(
        self, config: RunConfig, folder: Path, *, fresh: bool, say: Callable[[str], None], active: bool = True
    ) -> None:
        self.config, self.folder, self.fresh, self.say = config, folder, fresh, say
        self.wanted = active and config.track != "none"
        self.service: Service | None = None
        self.written = 0  # rows

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._close(kind is not None)

    def follow(self, history: Sequence[dict[str, Any]]) -> None:
        """Bring the service to where the run stands: ``history`` holds all of its rows of metrics.csv.

        The first call opens it.
        """
        if not self.wanted:
            return
        try:
            if self.service is not None and len(history) < self.written:  # the run has gone back to a checkpoint
                self._close(failed=False)
            if self.service is None:
                self.service, self.written = self._open(), 0
            self.service.write(history[self.written :])
            self.written = len(history)
        except Exception as error:
            what = "cannot start" if self.service is None else "has stopped"
            self.say(f"tracking by {self.config.track} {what}: {checks.first_line(error)}; the run goes on without it")
            self.wanted = False
            self._close(failed=True)

    def _open(self) -> Service:
        if self.config.track == "tensorboard":
            from attnconv.train.track_tensorboard import TensorBoard

            return TensorBoard(self.config, self.folder)
        from attnconv.train.track_wandb import WandB

        service = WandB(self.config, self.folder, fresh=self.fresh)
        self.fresh = False
        self.say(service.note)
        return service

    def _close(self, failed: bool) -> None:
        service, self.service = self.service, None
        if service is not None:
            try:
                service.close(failed)
            except Exception as error:
                if self.wanted:  # else it has been said that something is wrong
                    self.say(f"tracking by {self.config.track} has not ended well: {checks.first_line(error)}")
