"""Ctrl-C and SIGTERM handled between steps, and the end of a process.

A half-finished update of the weights could not be saved or resumed.
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
    """SIGTERM, the interrupt of a cluster's scheduler."""


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Defer signals to the end of the ``with`` block, and raise there what they would have raised."""
    if not _in_main_thread():
        yield  # Python runs signal handlers in the main thread only
        return
    # Ignored signals and default handlers need no deferral.
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
    """Make SIGTERM raise Terminated inside the ``with`` block, unless the program has its own handler."""
    if not _in_main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    owner = os.getpid()

    def terminate(*signal_and_frame: object) -> None:
        # Clusters signal every process. A loader's worker inherits this handler: it continues, since its end would look
        # like a failure, and ends with its parent.
        if os.getpid() == owner:
            raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class DeferredSignals:
    """A context that defers signals until all processes of a run are at the same step, except a second Ctrl-C.

    A second SIGTERM is deferred too, since a scheduler and its launcher may each send one.

    Args:
        active: False for a single process, where signals raise as usual.
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
            return  # a loader's worker, whose end would look like a failure
        if self.came and number == signal.SIGINT:
            raise SystemExit(128 + number)
        self.came = self.came or number

    def raise_pending(self, largest: Callable[[int], int]) -> None:
        """Raise Terminated or KeyboardInterrupt in all processes if one received a signal.

        Args:
            largest: returns the largest number among the processes.
        """
        if number := largest(self.came):
            self.came = number  # so that the next Ctrl-C ends this process at once
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def leave(code: int) -> NoReturn:
    """End this process with ``code``; in a run of several processes, without the teardown of Python.

    After its last sum a gloo thread waits for Python's lock to release a tensor. If Python shuts down meanwhile, it
    ends the thread where C++ does not allow it, and the process aborts after its work is done: "terminate called
    without an active exception". This is rare, and torch cannot wait for these threads, so only the visible part of
    Python's shutdown runs here.
    """
    torch = sys.modules.get("torch")  # not imported: no threads
    if torch is None or not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        sys.exit(code)
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]  # waits for threads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed by its reader
            stream.flush()
    os._exit(code)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
