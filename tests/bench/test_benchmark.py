"""Turns and rounds on a clock of the tests' own: the order, what is counted, and who may stay away."""

import pytest
import torch
from bench.candidates import UNABLE, FakeTime, settings

from attnconv.bench.benchmark import measure


@pytest.fixture
def time(monkeypatch):
    return FakeTime(monkeypatch)


def order(time):
    """Whose turns there were: calls of one after the other count once."""
    return "".join(name for name, before in zip(time.log, [None, *time.log], strict=False) if name != before)


def test_candidates_take_turns_and_each_round_begins_with_another(time):
    outcomes = measure(time.benchmark({name: [1.0] for name in "abc"}), settings(rounds=4))
    assert order(time) == "abc" + "abc" + "bca" + "cab" + "abc"  # after the warm-up
    assert {name: outcome.seconds for name, outcome in outcomes.items()} == dict.fromkeys("abc", (1.0,) * 4)


def test_short_calls_are_repeated_in_a_turn_and_long_ones_are_not(time):
    measure(time.benchmark({"short": [0.0039], "long": [1.0]}), settings(rounds=1))
    assert time.log.count("short") >= 2 + 6  # over 20 ms
    assert time.log.count("long") == 2 + 2  # built and its memory measured; the timer's warm-up and one call


def test_a_turn_is_the_median_of_its_calls(time):
    warm_up = [0.0, 0.0, 0.01]
    outcome = measure(time.benchmark({"a": [*warm_up, 0.002, 0.005, 0.1]}), settings(rounds=1))["a"]
    assert outcome.seconds == (pytest.approx(0.005),)


def test_who_cannot_be_built_stays_away_with_a_reason(time):
    outcomes = measure(
        time.benchmark({"x": UNABLE, "a": [1.0], "y": MemoryError(), "z": ValueError("no\nmore")}), settings()
    )
    assert list(outcomes) == ["x", "a", "y", "z"]
    reasons = ["needs a unicorn", None, "MemoryError: MemoryError", "ValueError: no"]
    assert [o.why_not for o in outcomes.values()] == reasons
    assert [len(o.seconds) for o in outcomes.values()] == [0, 3, 0, 0]


def test_who_fails_on_the_way_stays_away_and_the_others_go_on(time):
    left = iter(range(5))

    def call():
        time.now += 1.0
        if next(left, None) is None:
            raise RuntimeError("out of breath")

    outcomes = measure(time.benchmark({"a": call, "b": [1.0]}), settings())
    assert (outcomes["a"].why_not, outcomes["a"].seconds) == ("RuntimeError: out of breath", ())
    assert outcomes["b"].seconds == (1.0, 1.0, 1.0)


def test_slow_rounds_are_fewer_but_at_least_three(time):
    def rounds(seconds, wanted):
        return len(measure(time.benchmark({"a": [seconds]}), settings(rounds=wanted, budget=50.0))["a"].seconds)

    assert rounds(5.0, 20) == 6  # of 10 seconds each, the timer's warm-up included
    assert rounds(30.0, 20) == 3
    assert rounds(30.0, 2) == 2


def test_after_the_deadline_nobody_starts(time):
    outcomes = measure(time.benchmark({"a": [3.0], "b": [1.0]}), settings(deadline=5.0, rounds=1))
    assert outcomes["a"].seconds == (3.0,)
    assert outcomes["b"].why_not == "not measured: the time was up"
    assert "b" not in time.log


@pytest.mark.parametrize(("held", "fits"), [(700_000, True), (800_000, False)])
def test_who_would_need_more_memory_than_is_free_stays_away(time, monkeypatch, held, fits):
    monkeypatch.setattr("attnconv.files.free_memory", lambda: 1_000_000)

    def call():
        time.now += 1.0
        return torch.empty(1000)

    given = time.benchmark({"a": call}, held=lambda name: held)
    outcome = measure(given, settings(rounds=1))["a"]
    reason = "needs about 0.0 GB, more than 75% of the 0.0 GB of free memory"
    assert outcome.why_not == (None if fits else reason)


def test_nobody_can_run(time):
    assert measure(time.benchmark({"a": UNABLE}), settings())["a"].why_not == "needs a unicorn"


def test_an_interrupt_is_no_reason(time):
    with pytest.raises(KeyboardInterrupt):
        measure(time.benchmark({"a": KeyboardInterrupt()}), settings())


def test_what_is_going_on_is_told(time):
    heard = []
    measure(time.benchmark({"a": [1.0]}), settings(rounds=2), tell=heard.append)
    assert heard == ["a: warm-up", "round 1 of 2", "round 2 of 2"]
