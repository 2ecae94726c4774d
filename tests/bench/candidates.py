"""Candidates on a clock that only they move, so that tests of timing measure no time."""

import torch

from attnconv.bench.benchmark import Benchmark, CannotRunError, Settings
from attnconv.bench.cases import FORWARD

CPU = torch.device("cpu")


class FakeTime:
    """A clock, and calls that take as long as they say."""

    def __init__(self, monkeypatch):
        self.now, self.log = 0.0, []
        monkeypatch.setattr("attnconv.bench.benchmark.timer", lambda: self.now)

    def call(self, name, *seconds):
        """Takes these seconds, one after the other and the last for ever."""
        left = list(seconds)

        def call():
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return call

    def benchmark(self, calls, **more):
        """Candidates by name: the seconds of their calls, a call, or the error that there is instead."""

        def build(name, _):
            given = calls[name]
            if isinstance(given, BaseException):
                raise given
            return given if callable(given) else self.call(name, *given)

        given = {"study": "toys", "case": "T1", "shape": {"B": 2}, "what": FORWARD, "baseline": "a"}
        return Benchmark(**{**given, **more}, names=list(calls), inputs=lambda: None, build=build)


UNABLE = CannotRunError("needs a unicorn")


def settings(**more):
    return Settings(CPU, **{"rounds": 3, **more})
