"""Ctrl-C means Ctrl-C, also where the tests were started in the background, whose processes are born ignoring it."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
