"""Ctrl-C and SIGTERM between steps, never inside one: half an update of the weights cannot be saved or resumed."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


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


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Do what the block does without a signal in the middle; what one that came would have raised, its end does."""
    if threading.current_thread() is not threading.main_thread():
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
