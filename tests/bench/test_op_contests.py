"""Contests of the ops: every peer computes the same thing, what is counted, and sweeps."""

import functools
from dataclasses import replace

import pytest
import torch
from bench.contestants import settings
from torch.utils.flop_counter import FlopCounterMode

from attnconv import ops
from attnconv.bench import bilinear_attention as bilinear
from attnconv.bench import relative_attention as relative
from attnconv.bench.contest import BOTH, FORWARD
from attnconv.bench.relative_attention_peers import PEERS
from attnconv.bench.timing import hold

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without")

SMALL = relative.Case("T1", 2, 3, (5, 7), 6, 4)
BILINEAR = bilinear.Case("T2", 2, 5, 7)


def agree(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in PEERS if name != "flex"])
def test_peers_of_relative_attention_agree_with_it_and_so_do_their_gradients(name):
    inputs = SMALL.inputs(settings(), grad=True)
    expected = relative.call_of("eager", inputs)()
    agree(relative.call_of(name, inputs)(), expected)
    plain = SMALL.inputs(settings(), grad=False)
    agree(relative.call_of(name, plain)(), relative.call_of("eager", plain)())


def test_flex_attention_agrees_uncompiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    inputs = SMALL.inputs(settings(), grad=False)
    agree(relative.call_of("flex", inputs)(), relative.call_of("eager", inputs)())


def test_the_flex_contestant_is_compiled(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: seen.append(function) or function)
    relative.call_of("flex", SMALL.inputs(settings(), grad=False))
    assert len(seen) == 1


def test_without_positions_there_are_no_tables():
    q, k, v, rel = SMALL.inputs(settings(), grad=False)
    agree(relative.call_of("auto-without-positions", (q, k, v, rel))(), ops.relative_attention(q, k, v, None))


def test_contestants_are_ours_and_the_peers():
    (contest,) = relative.contests([SMALL], settings(backward=False))
    names = [contestant.name for contestant in contest.enter()]
    assert names == relative.contestant_names()
    assert set(ops.IMPLS) <= set(names)


def test_all_contestants_of_one_contest_run_or_say_why(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    for contest in relative.contests([SMALL], settings(rounds=1)):
        outcomes = {o.name: o for o in hold(contest.enter(), settings(rounds=1))}
        assert contest.what in (FORWARD, BOTH)
        assert outcomes["auto"].why_not is None
        assert all(o.why_not or (len(o.seconds) == 1 and o.peak_bytes > 0) for o in outcomes.values())


def test_an_implementation_that_cannot_run_is_recorded_with_its_reason(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("impl='triton' needs a CUDA device")

    monkeypatch.setattr(ops, "relative_attention", refuse)
    (contest,) = relative.contests([SMALL], settings(backward=False))
    outcome = hold([c for c in contest.enter() if c.name == "auto"], settings())[0]
    assert outcome.why_not == "RuntimeError: impl='triton' needs a CUDA device"


@pytest.mark.parametrize("positions", [True, False])
def test_the_flops_of_a_forward_are_those_that_torch_counts(positions):
    q, k, v, rel = SMALL.inputs(settings(), grad=False)
    with FlopCounterMode(display=False) as counter:
        ops.relative_attention(q, k, v, rel if positions else None, impl="eager")
    assert SMALL.flops(FORWARD, positions=positions) == counter.get_total_flops() > 0
    assert SMALL.flops(BOTH) == 3 * SMALL.flops(FORWARD)


def test_inputs_are_the_same_for_a_seed():
    first, second, third = (SMALL.inputs(settings(seed=seed), grad=False)[0] for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_a_sweep_doubles_the_map_and_shrinks_the_batch():
    cases = relative.sweep(relative.SIZES)
    assert [(case.name, case.batch, case.map_size) for case in cases] == [
        ("map8", 64, (8, 8)), ("map16", 64, (16, 16)), ("map32", 8, (32, 32)), ("map64", 1, (64, 64)),
        ("map128", 1, (128, 128)),
    ]  # fmt: skip
    assert [contest.size for contest in relative.contests(cases, settings(backward=False))] == [8, 16, 32, 64, 128]
    assert relative.contests([SMALL], settings())[0].size is None


def test_large_maps_are_probed_on_small_ones_first():
    large = replace(SMALL, batch=1, heads=8, map_size=(128, 128))
    assert large.shrunk().map_size == (32, 32)
    assert SMALL.shrunk() == SMALL
    (contest,) = relative.contests([large], settings(backward=False))
    probe = contest.enter()[0].probe
    assert probe is not None
    assert (probe.factor, probe.text) == (256, "on a 32 x 32 map")


def test_a_size_that_is_none():
    with pytest.raises(ValueError, match="a size of the sweep must be at least 1, got 0"):
        relative.sweep([8, 0])


@pytest.mark.parametrize("name", list(bilinear.PEERS))
def test_plain_orders_agree_with_bilinear_attention(name):
    inputs = BILINEAR.inputs(settings(), grad=True)
    agree(bilinear.call_of(name, *inputs)(), bilinear.call_of("auto", *inputs)())
    plain = BILINEAR.inputs(settings(), grad=False)
    agree(bilinear.call_of(name, *plain)(), bilinear.call_of("auto", *plain)())


@pytest.mark.parametrize("order", ["scores", "gram", "gram_weight"])
def test_the_flops_of_an_order_are_those_that_torch_counts(order):
    inputs = BILINEAR.inputs(settings(), grad=False)
    with FlopCounterMode(display=False) as counter:
        functools.partial(ops.bilinear_attention, order=order)(*inputs)
    assert BILINEAR.flops(order, FORWARD) == counter.get_total_flops() > 0


def test_bilinear_contests():
    forward, both = bilinear.contests([BILINEAR], settings(rounds=1))
    assert (forward.what, both.what) == (FORWARD, BOTH)
    assert [c.name for c in forward.enter()] == bilinear.contestant_names()
    assert all(o.why_not is None for o in hold(both.enter(), settings(rounds=1)))
    assert all(c.probe is None for c in forward.enter())
    large = bilinear.NAMED[1]
    assert bilinear.contests([large], settings())[0].enter()[0].probe.factor == large.batch


def test_names_of_cases_are_unique():
    names = [case.name for case in (*relative.NAMED, *bilinear.NAMED)]
    assert len(set(names)) == len(names) == 14
