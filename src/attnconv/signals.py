"""Ctrl-C and SIGTERM between pieces of work and never inside one, and the end of a process.

Half an update of the weights cannot be saved or resumed.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM came: what Ctrl-C is to a person, a cluster's scheduler says so."""


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Do what the block does without a signal in the middle; what one that came would have raised, its end does."""
    if not _in_main_thread():
        yield  # Python runs signal handlers in the main thread alone
        return
    # A signal that is ignored, or that ends the process at once, needs no holding.
    handlers = {number: handler for number in SIGNALS if callable(handler := signal.getsignal(number))}
    came = []
    for number in handlers:
        signal.signal(number, lambda *signal_and_frame: came.append(signal_and_frame))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if came:
        handlers[came[0][0]](*came[0])


@contextlib.contextmanager
def termination_raised() -> Iterator[None]:
    """Make SIGTERM raise Terminated in the block, unless the program has a handler of its own."""
    if not _in_main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
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


class DeferredSignals:
    """A context in which signals wait until all processes of a run stand at the same step; a second Ctrl-C does not.

    A second SIGTERM waits as the first: a scheduler and the launcher below it may each send one.

    Args:
        active: False for a single process, where signals are raised as usual.
    """

    def __init__(self, active: bool) -> None:
        self.active = active and _in_main_thread()
        self.came = 0

    def __enter__(self) -> "DeferredSignals":
        if self.active:
            self._before = {number: signal.signal(number, self._defer) for number in SIGNALS}
            self._owner = os.getpid()
        return self

    def __exit__(self, *error: object) -> None:
        if self.active:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _defer(self, number: int, frame: object) -> None:
        if os.getpid() != self._owner:
            return  # a loader's worker: its end would look like a failure
        if self.came and number == signal.SIGINT:
            raise SystemExit(128 + number)
        self.came = self.came or number

    def raise_pending(self, largest: Callable[[int], int]) -> None:
        """Raise Terminated or KeyboardInterrupt, in all processes, if a signal came in one.

        Args:
            largest: gives the largest of the processes' numbers.
        """
        if number := largest(self.came):
            self.came = number  # so that the next Ctrl-C ends this process at once
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def leave(code: int) -> NoReturn:
    """End this process with ``code``; one of several processes of a run without tearing Python down.

    A thread of gloo's that has done its last sum lets go of a tensor that Python made, and waits for Python's lock to
    do so. If Python is torn down meanwhile, the thread is made to end where C++ allows no end, and the process aborts
    with its work all done: "terminate called without an active exception". It is rare, and torch cannot be asked to
    wait for these threads, so what Python's own end does for the outside is done here, and no more.
    """
    torch = sys.modules.get("torch")  # that has not been imported started nothing
    if torch is None or not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        sys.exit(code)
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]  # waits for threads, as an end does
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # whoever read it has gone
            stream.flush()
    os._exit(code)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
