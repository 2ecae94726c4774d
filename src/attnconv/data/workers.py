"""What a loader's worker does about signals: a cluster's scheduler sends them to all processes of a job at once.

The training process saves and leaves when one comes, and needs its workers until then; torch's own workers end at
once, which looks to it like a failure.
"""

import os
import signal
import threading


def shield_worker(number: int) -> None:
    """For DataLoader's ``worker_init_fn``: leave Ctrl-C to the parent, and end at a SIGTERM of the parent's only."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # which says who sent it; macOS has none
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
