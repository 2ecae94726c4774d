"""Turns and rounds on a clock of the tests' own: the order, what is counted, and who may stay away."""

import pytest
import torch
from bench.contestants import CPU, FakeTime, refusing, settings

from attnconv.bench import timing
from attnconv.bench.contest import Contestant, Probe
from attnconv.bench.timing import hold, take_turns, warm_up


def test_contestants_take_turns_and_each_round_begins_with_another():
    time = FakeTime()
    calls = {name: time.contestant(name, 1.0).build() for name in "abc"}
    seconds, why_not = take_turns(calls, dict.fromkeys(calls, 1), rounds=4, clock=time.clock, device=CPU)
    assert "".join(time.log) == "abc" + "bca" + "cab" + "abc"
    assert seconds == {name: [1.0] * 4 for name in "abc"}
    assert why_not == {}


def test_a_turn_of_several_calls_counts_one():
    time = FakeTime()
    calls = {"a": time.contestant("a", 1.0, 3.0).build(), "b": time.contestant("b", 5.0).build()}
    seconds, _ = take_turns(calls, {"a": 2, "b": 1}, rounds=1, clock=time.clock, device=CPU)
    assert seconds == {"a": [2.0], "b": [5.0]}
    assert "".join(time.log) == "aab"


def test_short_calls_are_repeated_and_long_ones_are_not():
    time = FakeTime()
    hold([time.contestant("short", 0.004), time.contestant("long", 1.0)], settings(rounds=1), clock=time.clock)
    assert time.log[-6:] == ["short"] * 5 + ["long"]


@pytest.mark.parametrize(
    ("seconds", "calls", "fastest"),
    [
        ((4.0, 0, 2.0, 1.875, 9.0), 4, 1.875),  # the second is the one whose memory is measured
        ((1.0, 0, 1.0), 3, 1.0),
        ((11.0, 0, 1.0), 2, 11.0),  # too slow for more
        ((1.0, 0, 0.5, 0.25, 0.125, 0.0625, 0.03125), 6, 0.0625),
    ],
)
def test_warm_up_goes_on_until_it_gets_no_faster(seconds, calls, fastest):
    time = FakeTime()
    assert warm_up(time.contestant("a", *seconds).build(), time.clock, CPU)[0] == fastest
    assert len(time.log) == calls


def test_who_cannot_be_built_stays_away_with_a_reason():
    time = FakeTime()
    contestants = [
        refusing("x"),
        time.contestant("a", 1.0),
        refusing("y", MemoryError()),
        refusing("z", ValueError("no\nmore")),
    ]
    outcomes = hold(contestants, settings(), clock=time.clock)
    assert [o.name for o in outcomes] == ["x", "a", "y", "z"]
    assert [o.why_not for o in outcomes] == ["needs a unicorn", None, "MemoryError: no message", "ValueError: no"]
    assert [len(o.seconds) for o in outcomes] == [0, 3, 0, 0]


def test_who_fails_on_the_way_stays_away_and_the_others_go_on():
    time = FakeTime()
    left = iter(range(4))

    def call():
        time.now += 1.0
        if next(left, None) is None:
            raise RuntimeError("out of breath")

    outcomes = hold([Contestant("a", lambda: call), time.contestant("b", 1.0)], settings(), clock=time.clock)
    assert outcomes[0].why_not == "RuntimeError: out of breath"
    assert outcomes[0].seconds == ()
    assert outcomes[1].seconds == (1.0, 1.0, 1.0)


def test_slow_rounds_are_fewer_but_at_least_three():
    time = FakeTime()
    wanted = settings(rounds=20, budget=50.0)
    assert len(hold([time.contestant("a", 5.0)], wanted, clock=time.clock)[0].seconds) == 10
    assert len(hold([time.contestant("a", 30.0)], wanted, clock=time.clock)[0].seconds) == 3
    assert len(hold([time.contestant("a", 30.0)], settings(rounds=2), clock=time.clock)[0].seconds) == 2


def test_after_the_deadline_nobody_starts():
    time = FakeTime()
    outcomes = hold(
        [time.contestant("a", 3.0), time.contestant("b", 1.0)], settings(deadline=5.0, rounds=1), clock=time.clock
    )
    assert outcomes[0].seconds == (3.0,)
    assert outcomes[1].why_not == "not measured: the time was up"
    assert "b" not in time.log


def test_who_would_need_more_memory_than_is_free_stays_away(monkeypatch):
    monkeypatch.setattr("attnconv.bench.peak.free_memory", lambda: 1_000_000)
    time = FakeTime()

    def allocate():
        return torch.empty(1000)

    fits, not_ = (Probe(lambda: allocate, factor, "on a 4 x 4 map") for factor in (100, 200))
    outcomes = hold(
        [time.contestant("a", 1.0, probe=fits), time.contestant("b", 1.0, probe=not_)], settings(), clock=time.clock
    )
    assert outcomes[0].why_not is None
    assert (
        outcomes[1].why_not
        == "would hold about 0.0 GB (200 x what it held on a 4 x 4 map), more than 75% of the 0.0 GB free"
    )
    assert "b" not in time.log


def test_nobody_can_run():
    assert hold([refusing("a")], settings())[0].why_not == "needs a unicorn"


def test_an_interrupt_is_no_reason():
    with pytest.raises(KeyboardInterrupt):
        hold([refusing("a", KeyboardInterrupt())], settings())


def test_what_is_going_on_is_told():
    time, heard = FakeTime(), []
    hold([time.contestant("a", 1.0)], settings(rounds=2), clock=time.clock, tell=heard.append)
    assert heard == ["a: warm-up", "round 1 of 2", "round 2 of 2"]


def test_the_clock_of_the_cpu_runs():
    clock = timing.clock_of(CPU)
    assert clock() <= clock()
