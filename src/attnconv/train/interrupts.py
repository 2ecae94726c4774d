"""Ctrl-C between steps, never inside one: half an update of the weights cannot be saved or resumed."""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Do what the block does without a Ctrl-C in the middle; one that came raises KeyboardInterrupt at its end."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield  # Python runs signal handlers in the main thread alone; and a SIGINT that is ignored needs no holding
        return
    came = []
    signal.signal(signal.SIGINT, lambda *signal_and_frame: came.append(signal_and_frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if came:
        handler(*came[-1])
