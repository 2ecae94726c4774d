"""Loaders' workers and signals: those of a scheduler are the training process's to heed."""

import os
import signal
import subprocess
import sys
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


INTERRUPTED = """
import os, signal, sys
import torch
from attnconv.data import load_data
came = []
def interrupt():  # while the first worker is forked, as logging's hook runs, in which what is raised is lost
    if not came:
        came.append(True)
        signal.raise_signal(signal.SIGINT)
os.register_at_fork(before=interrupt)
loader = load_data(sys.argv[1], image_size=8).train_loader(batch_size=4, seed=0, device=torch.device("cpu"), workers=1)
try:
    for batch in loader.epoch(0):
        print("a batch")
except KeyboardInterrupt:
    print("interrupted", came)
"""


def test_ctrl_c_while_a_worker_is_forked_is_not_lost(image_folder):
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, str(image_folder)], capture_output=True, text=True)
    assert done.stdout == "interrupted [True]\n", done.stderr


STUCK = """
import multiprocessing, os, signal, sys, threading
import torch
from attnconv.data import load_data
loader = load_data(sys.argv[1], image_size=8).train_loader(batch_size=4, seed=0, device=torch.device("cpu"), workers=1)
list(loader.epoch(0))
(worker,) = multiprocessing.active_children()
os.kill(worker.pid, signal.SIGSTOP)  # as if a network's file system did not answer
woken = []
def wake():
    woken.append(True)
    os.kill(worker.pid, signal.SIGCONT)
interrupts, waking = (threading.Timer(*of) for of in ((1, signal.raise_signal, [signal.SIGINT]), (30, wake)))
interrupts.start()
waking.start()
try:
    list(loader.epoch(1))
except KeyboardInterrupt:
    print("interrupted", woken, flush=True)
waking.cancel()
os.kill(worker.pid, signal.SIGCONT)
"""


def test_ctrl_c_ends_the_wait_for_a_worker_that_is_stuck(image_folder):
    done = subprocess.run([sys.executable, "-c", STUCK, str(image_folder)], capture_output=True, text=True)
    assert done.stdout == "interrupted []\n", done.stderr
