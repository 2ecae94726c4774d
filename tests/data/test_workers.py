"""Loaders' workers and signals: those of a scheduler are the training process's to heed."""

import os
import signal
import subprocess
import time

import pytest

from attnconv.data.workers import shield_worker

pytestmark = pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="forks, and asks who sent a signal")


@pytest.fixture
def worker():
    """The number of a forked child that is shielded."""
    ready, say = os.pipe()
    child = os.fork()
    if not child:
        shield_worker(0)
        os.write(say, b"1")
        while True:
            time.sleep(60)
    assert os.read(ready, 1) == b"1"
    os.close(ready)
    os.close(say)
    yield child
    try:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_strangers_do_not_end_a_worker(worker, name):
    subprocess.run(["sh", "-c", f"kill -{name} {worker}"], check=True)
    time.sleep(0.3)
    assert os.waitpid(worker, os.WNOHANG) == (0, 0)


def test_its_parent_does(worker):
    os.kill(worker, signal.SIGTERM)
    assert os.waitpid(worker, 0) == (worker, 0)
