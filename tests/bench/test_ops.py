"""Benchmarks of the ops: every peer computes the same thing, what is counted, and sweeps."""

from dataclasses import replace

import pytest
import torch
from bench.candidates import settings

from attnconv import ops
from attnconv.bench import ops as cases
from attnconv.bench.benchmark import floor_seconds, measure
from attnconv.bench.cases import (
    BILINEAR,
    BILINEAR_NAMES,
    BOTH,
    FORWARD,
    RELATIVE,
    RELATIVE_NAMES,
    SIZES,
    BilinearCase,
    RelativeCase,
    relative_sweep,
)

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without")

SMALL = RelativeCase("T1", 2, 3, (5, 7), 6, 4)
TINY = BilinearCase("T2", 2, 5, 7)


def agree(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


CASES = [SMALL, *(replace(SMALL, map_size=n) for n in ((11,), (2, 3, 5))), replace(SMALL, tables=False)]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", [name for name in cases.RELATIVE_PEERS if name != "flex"])
def test_peers_of_relative_attention_agree_with_it_and_so_do_their_gradients(name, case):
    inputs = cases.relative_inputs(case, settings(), grad=True)
    expected = cases.relative_call("eager", inputs)()
    agree(cases.relative_call(name, inputs)(), expected)
    plain = cases.relative_inputs(case, settings(), grad=False)
    agree(cases.relative_call(name, plain)(), cases.relative_call("eager", plain)())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_flex_attention_agrees_uncompiled(monkeypatch, case):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    inputs = cases.relative_inputs(case, settings(), grad=False)
    agree(cases.relative_call("flex", inputs)(), cases.relative_call("eager", inputs)())


def test_the_flex_candidate_is_compiled(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: seen.append(function) or function)
    cases.relative_call("flex", cases.relative_inputs(SMALL, settings(), grad=False))
    assert len(seen) == 1


def test_without_positions_there_are_no_tables():
    q, k, v, rel = cases.relative_inputs(SMALL, settings(), grad=False)
    agree(cases.relative_call("auto-without-positions", (q, k, v, rel))(), ops.relative_attention(q, k, v, None))


def test_candidates_are_ours_and_the_peers():
    names = cases.relative_benchmark(SMALL, FORWARD, settings()).names
    assert tuple(names) == RELATIVE_NAMES
    assert set(names) == {*ops.IMPLS, *cases.RELATIVE_PEERS, "auto-without-positions", "eager-without-positions"}
    names = cases.relative_benchmark(replace(SMALL, tables=False), FORWARD, settings()).names
    assert names == [*ops.IMPLS, *cases.RELATIVE_PEERS]


@pytest.mark.parametrize("what", [pytest.param(FORWARD, marks=pytest.mark.slow), BOTH])
def test_all_candidates_run_or_say_why(monkeypatch, what):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    outcomes = measure(cases.relative_benchmark(SMALL, what, settings()), settings(rounds=1))
    assert outcomes["auto"].why_not is None
    assert all(o.why_not or (len(o.seconds) == 1 and o.peak_bytes > 0) for o in outcomes.values())


def test_an_implementation_that_cannot_run_is_recorded_with_its_reason(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("impl='triton' needs a CUDA device")

    monkeypatch.setattr(ops, "relative_attention", refuse)
    outcomes = measure(cases.relative_benchmark(SMALL, FORWARD, settings()), settings(names=("auto",)))
    assert outcomes["auto"].why_not == "RuntimeError: impl='triton' needs a CUDA device"


@pytest.mark.parametrize("name", RELATIVE_NAMES)
def test_flops_of_relative_attention_by_hand(name):
    """2 a multiply-add of the two products and of the position terms; the backward needs each twice."""
    terms = 0 if name.endswith("positions") else 2 * 3 * 35 * (5 + 7) * 6
    forward = 2 * (2 * 3 * 35**2 * (6 + 4) + terms)
    assert cases.relative_benchmark(SMALL, FORWARD, settings()).flops(name) == forward
    assert cases.relative_benchmark(SMALL, BOTH, settings()).flops(name) == 3 * forward


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_floor_counts_two_products_forward_and_five_more_backward(case):
    pairs = 2 * 3 * {(5, 7): 35, (11,): 11, (2, 3, 5): 30}[case.map_size] ** 2
    forward, both = (cases.relative_benchmark(case, what, settings()) for what in (FORWARD, BOTH))
    assert (forward.macs, forward.exps) == (pairs * (6 + 4), pairs)
    assert (both.macs, both.exps) == (pairs * (6 + 4 + 3 * 6 + 2 * 4), 2 * pairs)
    assert floor_seconds(both, [(pairs, 2 * pairs), (2 * pairs, pairs)], threads=2) == [18.5, 10.0]


def test_shapes_of_records():
    assert SMALL.shape == {"B": 2, "N": 3, "H": 5, "W": 7, "D": 6, "E": 4}
    assert CASES[1].shape == {"B": 2, "N": 3, "W": 11, "D": 6, "E": 4}
    assert CASES[2].shape == {"B": 2, "N": 3, "T": 2, "H": 3, "W": 5, "D": 6, "E": 4}
    assert CASES[3].shape == {**SMALL.shape, "tables": 0}


def test_inputs_are_the_same_for_a_seed():
    first, second, third = (cases.relative_inputs(SMALL, settings(seed=seed), grad=False)[0] for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_a_sweep_doubles_the_map_and_shrinks_the_batch():
    found = relative_sweep(SIZES)
    assert [(case.name, case.batch, case.map_size) for case in found] == [
        ("map8", 64, (8, 8)), ("map16", 64, (16, 16)), ("map32", 8, (32, 32)), ("map64", 1, (64, 64)),
        ("map128", 1, (128, 128)),
    ]  # fmt: skip
    sizes = [cases.relative_benchmark(case, FORWARD, settings()).size for case in (*found, SMALL)]
    assert sizes == [8, 16, 32, 64, 128, None]


def test_candidates_that_hold_all_logits_are_known():
    large = replace(SMALL, batch=1, heads=8, map_size=(128, 128))
    held = cases.relative_benchmark(large, FORWARD, settings()).held
    assert {held(name) for name in ("eager", "eager-without-positions", "einsum")} == {20 * 8 * 128**4}
    assert held("auto") == 0


def test_a_size_that_is_none():
    with pytest.raises(ValueError, match="a size of the sweep must be at least 1, got 0"):
        relative_sweep([8, 0])


def test_candidates_of_bilinear_attention():
    assert ("auto", *cases.BILINEAR_PEERS) == BILINEAR_NAMES


@pytest.mark.parametrize("name", list(cases.BILINEAR_PEERS))
def test_plain_orders_agree_with_bilinear_attention(name):
    inputs = cases.bilinear_inputs(TINY, settings(), grad=True)
    agree(cases.bilinear_call(name, inputs)(), cases.bilinear_call("auto", inputs)())
    plain = cases.bilinear_inputs(TINY, settings(), grad=False)
    agree(cases.bilinear_call(name, plain)(), cases.bilinear_call("auto", plain)())


@pytest.mark.parametrize(
    ("name", "macs"),
    [("plain-scores", 7 * 25 + 2 * 49 * 5), ("plain-gram", 3 * 7 * 25), ("plain-gram_weight", 2 * 7 * 25 + 125)],
)
def test_flops_of_an_order_by_hand(name, macs):
    forward, both = (cases.bilinear_benchmark(TINY, what, settings()).flops for what in (FORWARD, BOTH))
    assert (forward(name), both(name)) == (2 * 2 * macs, 3 * 2 * 2 * macs)
    assert forward("auto") == forward("plain-gram_weight")


def test_bilinear_benchmarks():
    forward, both = (cases.bilinear_benchmark(TINY, what, settings()) for what in (FORWARD, BOTH))
    assert all(o.why_not is None for o in measure(both, settings(rounds=1)).values())
    assert forward.held("plain-scores") == 20 * TINY.batch * TINY.positions**2
    assert forward.held("auto") == 0


def test_names_of_cases_are_unique():
    names = [case.name for case in (*RELATIVE, *BILINEAR)]
    assert len(set(names)) == len(names) == 19
