"""A process whose first one was killed ends, even where it waits for ever."""

import os
import signal
import subprocess
import sys
import time

import pytest

from attnconv.train.orphans import STARTED_BY, launch

STUCK = """
import time
from attnconv.train import orphans
orphans.PAUSE, orphans.PATIENCE = 0.05, 0.2
orphans.launch(lambda: print("stuck", flush=True))
time.sleep(300)
"""
FIRST = """
import subprocess, sys, time
from attnconv.train import orphans
def start():
    subprocess.Popen([sys.executable, "-c", sys.argv[2]])
orphans.launch(start) if sys.argv[1] == "in launch" else start()
time.sleep(300)
"""


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
@pytest.mark.parametrize("when", ["in launch", "later"])
def test_a_stuck_process_ends_after_its_first_one(when):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", FIRST, when, STUCK]
    first = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert first.stdout.readline() == "stuck\n"
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    if when == "in launch":
        assert "the first process of this run has ended; --resume goes on" in first.stderr.read()  # until it has ended
    else:
        time.sleep(0.6)
        os.killpg(first.pid, 0)  # raises if nobody of the group is left
        os.killpg(first.pid, signal.SIGKILL)
        assert first.stderr.read() == ""
    first.stdout.close()
    first.stderr.close()


def test_what_is_started_later_is_not_marked():
    marks = []
    launch(lambda: marks.append(os.environ[STARTED_BY]))
    assert marks == [str(os.getpid())]
    assert STARTED_BY not in os.environ
