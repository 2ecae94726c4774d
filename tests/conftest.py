"""Ctrl-C means Ctrl-C, also where the tests were started in the background, whose processes are born ignoring it.

And the browser of the tests that open a page.
"""

import contextlib
import os
import signal

import pytest
from chromium import chromium, why_not

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def interrupted_in_the_second_epoch(monkeypatch):
    """A context in which every training gets Ctrl-C when its second epoch is to be validated."""
    from attnconv.train.fit import Training

    @contextlib.contextmanager
    def interrupted():
        validate, done = Training.validate, []

        def stopped(self):
            if done:
                raise KeyboardInterrupt
            done.append(validate(self))

        with monkeypatch.context() as patch:
            patch.setattr(Training, "validate", stopped)
            yield

    return interrupted


@pytest.fixture(scope="module")  # and no longer: while Playwright runs, nothing else can start an asyncio loop
def browser():
    """Headless Chromium; tests skip where there is none, which is a failure where CI is set."""
    if reason := why_not():
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with chromium() as opened:
        yield opened
