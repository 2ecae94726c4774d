"""A process of several ends with its exit code, whatever gloo's threads are about to do."""

import subprocess
import sys
import textwrap

import pytest

from attnconv.train.leaving import leave

# gloo's thread is done with the sum after a second, and waits for Python's lock, which is not given up any more, to let
# go of the tensor; an object that takes its time holds up the end. With sys.exit instead, this process aborts.
WAITING = """
    import os, sys, time
    import torch, torch.distributed as dist
    from attnconv.train.leaving import leave

    rank = int(os.fork() == 0)
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=rank, world_size=2)
    tensor = torch.zeros(4)
    tensor.mark = "so that Python's object outlives its name"
    time.sleep(rank)
    work = dist.all_reduce(tensor, async_op=True)
    if rank == 1:
        work.wait()
        os._exit(0)
    del tensor, work

    class Late:
        def __del__(self):
            time.sleep(1)

    late = Late()
    sys.setswitchinterval(1000)
    end = time.monotonic() + 3
    while time.monotonic() < end:
        pass
    leave(3)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_thread_of_gloo_may_hold_a_tensor(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WAITING), str(tmp_path / "store")], capture_output=True, text=True
    )
    assert done.returncode == 3, done.stderr


def test_what_was_to_be_done_at_the_end_is_done(tmp_path):
    text = f"""
import atexit, threading, time
import torch.distributed as dist
from attnconv.train.leaving import leave

dist.init_process_group("gloo", init_method="file://{tmp_path / "store"}", rank=0, world_size=1)
atexit.register(print, "at exit")
threading.Thread(target=lambda: (time.sleep(0.5), print("a thread"))).start()
print("the program")
leave(3)
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "the program\na thread\nat exit\n"), done.stderr


def test_alone_it_is_an_ordinary_exit():
    with pytest.raises(SystemExit) as ended:
        leave(2)
    assert ended.value.code == 2
