"""Signals between pieces of work, and the end of a process."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from attnconv.signals import DeferredSignals, Terminated, interrupts_held, leave, termination_raised


def test_ctrl_c_waits_for_the_end_of_the_block():
    done = []
    before = signal.getsignal(signal.SIGINT)

    def block():
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == [True]
    assert signal.getsignal(signal.SIGINT) is before


def test_without_ctrl_c_nothing_happens():
    before = signal.getsignal(signal.SIGINT)
    with interrupts_held():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_an_error_in_the_block_passes():
    before = signal.getsignal(signal.SIGINT)

    def block():
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()
    assert signal.getsignal(signal.SIGINT) is before


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_the_block_just_runs():
    done = []

    def work():
        with interrupts_held():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


def terminate():
    signal.raise_signal(signal.SIGTERM)


def test_sigterm_is_raised_in_its_block_alone():
    with pytest.raises(Terminated), termination_raised():
        terminate()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_sigterm_waits_for_the_end_of_the_inner_block():
    done = []

    def block():
        with interrupts_held():
            terminate()
            done.append(True)

    with pytest.raises(Terminated), termination_raised():
        block()
    assert done == [True]


def test_a_handler_of_the_program_is_left_alone():
    came = []
    before = signal.signal(signal.SIGTERM, lambda *args: came.append(args[0]))
    try:
        with termination_raised():
            terminate()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [signal.SIGTERM]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_goes_on():
    with termination_raised():
        child = os.fork()
        if not child:
            terminate()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_deferred_signal_waits_until_it_is_raised(number, error):
    before = signal.getsignal(number)
    with DeferredSignals(active=True) as signals:
        signals.raise_pending(lambda number: number)
        signal.raise_signal(number)
        with pytest.raises(error):
            signals.raise_pending(lambda number: number)
    assert signal.getsignal(number) is before


def test_the_second_ctrl_c_ends_the_process_and_the_second_sigterm_does_not():
    with DeferredSignals(active=True) as signals:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert signals.came == signal.SIGTERM
        with pytest.raises(SystemExit) as caught:
            signal.raise_signal(signal.SIGINT)
    assert caught.value.code == 130


def test_all_processes_heed_the_signal_of_one():
    with DeferredSignals(active=True) as signals, pytest.raises(Terminated):
        signals.raise_pending(lambda number: max(number, signal.SIGTERM))


# gloo's thread is done with the sum after a second, and waits for Python's lock, which is not given up any more, to let
# go of the tensor; an object that takes its time holds up the end. With sys.exit instead, this process aborts.
WAITING = """
    import os, sys, time
    import torch, torch.distributed as dist
    from attnconv.signals import leave

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
from attnconv.signals import leave

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
