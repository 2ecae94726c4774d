"""Seconds and bytes of a call, and the machine's name and rates."""

import sys
from types import SimpleNamespace

import torch
from bench.candidates import CPU

from attnconv import __version__, checks
from attnconv.bench import machine as of_machine
from attnconv.bench.machine import call_seconds, machine, peak_bytes, rates


def test_the_peak_counts_what_is_held_at_once_and_not_what_was_there():
    given = torch.ones(100_000)

    def call():
        first = given + 1  # 400 kB
        second = first + 1  # 800 kB with the first
        del first
        return second + 1

    assert 800_000 <= peak_bytes(call, CPU) < 810_000


def test_a_result_counts_although_it_is_thrown_away():
    assert 400_000 <= peak_bytes(lambda: torch.ones(100_000), CPU) < 410_000


def test_a_call_is_timed_again_and_again_on_all_threads():
    before, threads = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        found = call_seconds(lambda: threads.append(torch.get_num_threads()), CPU, at_least=0.01)
    finally:
        torch.set_num_threads(before)
    assert len(threads) > len(found) > 0
    assert set(threads) == {2}
    assert 0 < min(found) <= max(found) < 0.01


def test_on_cuda_triton_times_in_milliseconds(monkeypatch):
    def do_bench(call, **given):
        assert given == {"warmup": 0, "rep": 20, "return_mode": "all"}
        call()
        return [1.0, 2.5]

    called = []
    monkeypatch.setattr(checks, "installed_version", lambda package: "3.6")
    monkeypatch.setitem(sys.modules, "triton.testing", SimpleNamespace(do_bench=do_bench))
    found = call_seconds(lambda: called.append(1), torch.device("cuda"), at_least=0.02)
    assert found == [0.001, 0.0025]
    assert called == [1]


def test_the_machine_is_named():
    found = machine(CPU)
    assert found["device"] == "cpu"
    assert found["name"]
    assert (found["threads"], found["torch"]) == (torch.get_num_threads(), torch.__version__)
    assert found["attnconv"] == __version__


def test_rates_are_measured(monkeypatch):
    monkeypatch.setattr(of_machine, "SECONDS", 0.01)
    monkeypatch.setattr(of_machine, "_best", {})
    found = rates(CPU, torch.float32)
    assert found["matmul_flops_per_s"] > 1e8
    assert found["exps_per_s"] > 1e6


def test_the_best_rates_that_were_seen_count(monkeypatch):
    monkeypatch.setattr(of_machine, "_best", {})
    for seconds, best in ((2.0, 2.0), (0.5, 0.5), (4.0, 0.5)):
        monkeypatch.setattr(of_machine, "call_seconds", lambda *_, seconds=seconds, **__: [seconds, 9.0])
        assert rates(CPU, torch.float32) == {"matmul_flops_per_s": 2 * 1536**3 / best, "exps_per_s": 2**20 / best}
