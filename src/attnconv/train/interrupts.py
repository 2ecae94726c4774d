"""Ctrl-C and SIGTERM between steps, never inside one: half an update of the weights cannot be saved or resumed."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from attnconv.signals import SIGNALS

if TYPE_CHECKING:
    from attnconv.train.ranks import Ranks


class Terminated(KeyboardInterrupt):
    """SIGTERM came: what Ctrl-C is to a person, a cluster's scheduler says so."""


@contextlib.contextmanager
def termination_raised() -> Iterator[None]:
    """In the block SIGTERM raises Terminated, unless the program has a use of its own for it."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    owner = os.getpid()

    def terminate(*signal_and_frame: object) -> None:
        # Clusters send the signal to every process. A loader's worker has this handler from the fork: it goes on,
        # since its end would look like a failure, and ends with its parent.
        if os.getpid() == owner:
            raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Noted:
    """A context in which signals wait until all processes of a run stand at the same step; a second Ctrl-C does not.

    A second SIGTERM waits as the first: a scheduler and the launcher below it may each send one.

    ``active=False``: for a single process, where they are raised as usual.
    """

    def __init__(self, active: bool) -> None:
        self.active = active and threading.current_thread() is threading.main_thread()
        self.came = 0

    def __enter__(self) -> "Noted":
        if self.active:
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
            self._owner = os.getpid()
        return self

    def __exit__(self, *error: object) -> None:
        if self.active:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        if os.getpid() != self._owner:
            return  # a loader's worker: its end would look like a failure
        if self.came and number == signal.SIGINT:
            raise SystemExit(128 + number)
        self.came = self.came or number

    def heed(self, ranks: "Ranks") -> None:
        """Raise Terminated or KeyboardInterrupt, in all processes, if a signal came in one."""
        if (number := ranks.largest(self.came)) == 0:
            return
        self.came = number  # so that the next Ctrl-C ends this process at once
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
