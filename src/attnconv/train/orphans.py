"""The end of a process whose first one has gone without a word, killed, say.

Over gloo it hears of that at once, over NCCL it would wait for half an hour. The other way round Fabric sees to it: the
first process watches those that it has started.
"""

import os
import sys
import threading
import time
from collections.abc import Callable

STARTED_BY = "ATTNCONV_FIRST_PROCESS"  # environment variable: number of the process that starts the others
PAUSE, PATIENCE = 1.0, 20.0  # seconds: between looks, and for a process to find out by itself, and to say more


def launch(start: Callable[[], object]) -> None:
    """Call ``start``, which may start the other processes of a run; this one, if it is such a one, ends with its first.

    The mark is there for as long as ``start`` runs, so that nothing that is started later takes itself for one.
    """
    first = os.getppid()  # now: it may be gone when ``start`` is done
    is_started = os.environ.get(STARTED_BY) == str(first)
    os.environ[STARTED_BY] = str(os.getpid())
    try:
        start()
    finally:
        del os.environ[STARTED_BY]
    if is_started:
        threading.Thread(target=_watch, args=(first,), daemon=True).start()


def _watch(first: int) -> None:
    while os.getppid() == first:
        time.sleep(PAUSE)
    time.sleep(PATIENCE)
    text = "the first process of this run has ended; --resume goes on from the last checkpoint"
    print(f"attnconv: error: {text}", file=sys.stderr, flush=True)
    os._exit(1)
