import os
import signal
import threading

import pytest

from attnconv.signals import interrupts_held
from attnconv.train.interrupts import Noted, Terminated, termination_raised


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


class Alone:
    """Ranks of a single process."""

    def largest(self, number):
        return number


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_noted_signal_waits_until_it_is_heeded(number, error):
    before = signal.getsignal(number)
    with Noted(active=True) as noted:
        noted.heed(Alone())
        signal.raise_signal(number)
        with pytest.raises(error):
            noted.heed(Alone())
    assert signal.getsignal(number) is before


def test_the_second_ctrl_c_ends_the_process_and_the_second_sigterm_does_not():
    with Noted(active=True) as noted:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert noted.came == signal.SIGTERM
        with pytest.raises(SystemExit) as caught:
            signal.raise_signal(signal.SIGINT)
    assert caught.value.code == 130


def test_all_processes_heed_the_signal_of_one():
    class Two(Alone):
        def largest(self, number):
            return max(number, signal.SIGTERM)

    with Noted(active=True) as noted, pytest.raises(Terminated):
        noted.heed(Two())
