"""Contestants on a clock that only they move, so that tests of timing measure no time."""

import torch

from attnconv.bench.contest import FORWARD, CannotRunError, Contest, Contestant, Settings

CPU = torch.device("cpu")


class FakeTime:
    """A clock, and calls that take as long as they say."""

    def __init__(self):
        self.now = 0.0
        self.log = []

    def clock(self):
        return self.now

    def contestant(self, name, *seconds, **more):
        """Takes these seconds, one after the other and the last for ever."""
        left = list(seconds)

        def call():
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return Contestant(name, lambda: call, **more)


def refusing(name, error=None):
    def build():
        raise error or CannotRunError("needs a unicorn")

    return Contestant(name, build)


def contest(contestants, **more):
    given = {"study": "toys", "case": "T1", "shape": {"B": 2}, "what": FORWARD, "baseline": "a"}
    return Contest(**{**given, **more}, enter=lambda: contestants)


def settings(**more):
    return Settings(CPU, **{"rounds": 3, **more})
