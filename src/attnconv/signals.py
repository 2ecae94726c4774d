"""Ctrl-C and SIGTERM held until a piece of work is whole."""

import contextlib
import signal
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
