import math

import pytest

from attnconv.train.schedule import SCHEDULES, one_cycle_momentum


# Of 100 steps with a peak of 2; the expected values are worked out by hand.
@pytest.mark.parametrize(
    ("name", "warmup", "step", "expected"),
    [
        ("one-cycle", 0.3, 0, 0.2),
        ("one-cycle", 0.3, 15, 1.1),  # half way up: the mean of 0.2 and 2
        ("one-cycle", 0.3, 10, 0.2 + 1.8 * 0.25),  # a third: (1 - cos 60 degrees) / 2
        ("one-cycle", 0.3, 30, 2.0),
        ("one-cycle", 0.3, 65, 1.0),
        ("one-cycle", 0.3, 99, 1 + math.cos(math.pi * 69 / 70)),
        ("one-cycle", 0.0, 0, 2.0),
        ("cosine", 0.05, 0, 0.0),
        ("cosine", 0.05, 2, 0.8),
        ("cosine", 0.05, 5, 2.0),
        ("cosine", 0.1, 40, 1.5),  # a third of the way down: (1 + cos 60 degrees) / 2
        ("cosine", 0.0, 0, 2.0),
        ("cosine", 0.0, 50, 1.0),
        ("flat-cosine", 0.3, 0, 2.0),
        ("flat-cosine", 0.3, 75, 2.0),
        ("flat-cosine", 0.3, 80, 1 + math.cos(math.pi / 5)),  # a fifth of the way down
        ("flat-cosine", 0.0, 99, 1 + math.cos(math.pi * 24 / 25)),
        ("constant", 0.3, 0, 2.0),
        ("constant", 0.3, 99, 2.0),
    ],
)
def test_learning_rates(name, warmup, step, expected):
    assert SCHEDULES[name](step, 100, peak=2.0, warmup=warmup) == pytest.approx(expected, abs=1e-12)


# Of 100 steps between 0.85 and 0.95, worked out by hand.
@pytest.mark.parametrize(
    ("warmup", "step", "expected"),
    [
        (0.3, 0, 0.95),
        (0.3, 10, 0.925),  # a third of the way: a quarter of the height
        (0.3, 15, 0.9),
        (0.3, 30, 0.85),
        (0.3, 65, 0.9),
        (0.3, 99, 0.95 - 0.05 * (1 + math.cos(math.pi * 69 / 70))),
        (0.0, 0, 0.85),
    ],
)
def test_the_momentum_of_one_cycle(warmup, step, expected):
    found = one_cycle_momentum(step, 100, base=0.85, largest=0.95, warmup=warmup)
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["one-cycle", "cosine", "flat-cosine"])
def test_the_last_rate_is_nearly_zero(name):
    assert 0 < SCHEDULES[name](9999, 10000, peak=1.0, warmup=0.3) < 1e-6


@pytest.mark.parametrize(
    ("name", "expected"), [("one-cycle", 0.1), ("cosine", 0.0), ("flat-cosine", 1.0), ("constant", 1.0)]
)
def test_a_run_of_one_step(name, expected):
    assert SCHEDULES[name](0, 1, peak=1.0, warmup=0.3) == pytest.approx(expected)
