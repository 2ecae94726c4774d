"""The end of a program that may have been one of several processes of a run."""

import atexit
import os
import sys
import threading
from typing import NoReturn


def leave(code: int) -> NoReturn:
    """End this process with ``code``; one of several without tearing Python down.

    A thread of gloo's that has done its last sum lets go of a tensor that Python made, and waits for Python's lock to
    do so. If Python is torn down meanwhile, the thread is made to end where C++ allows no end, and the process aborts
    with its work all done: "terminate called without an active exception". It is rare, and torch cannot be asked to
    wait for these threads, so what Python's own end does for the outside is done here, and no more.
    """
    if not _is_one_of_several():
        sys.exit(code)
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]  # waits for threads, as an end does
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # whoever read it has gone
            continue
    os._exit(code)


def _is_one_of_several() -> bool:
    torch = sys.modules.get("torch")  # that has not been imported started nothing
    return torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()
