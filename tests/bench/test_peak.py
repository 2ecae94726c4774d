"""Peak memory by tracked allocations, free memory, and the machine's own rates."""

import torch
from bench.contestants import CPU

from attnconv import __version__
from attnconv.bench import machine as machine_room
from attnconv.bench.machine import machine, rates
from attnconv.bench.peak import peak_bytes
from attnconv.files import free_memory


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


def test_free_memory_is_known_here():
    free = free_memory()
    assert free is None or free > 10_000_000


def test_the_machine_is_named():
    found = machine(CPU)
    assert found["device"] == "cpu"
    assert found["name"]
    assert (found["threads"], found["torch"]) == (torch.get_num_threads(), torch.__version__)
    assert found["attnconv"] == __version__


def test_rates_are_measured(monkeypatch):
    monkeypatch.setattr(machine_room, "SECONDS", 0.01)
    monkeypatch.setattr(machine_room, "_best", {})
    found = rates(CPU, torch.float32)
    assert found["matmul_flops_per_s"] > 1e8
    assert found["exps_per_s"] > 1e6


def test_the_best_rates_that_were_seen_count(monkeypatch):
    monkeypatch.setattr(machine_room, "_best", {})
    for seconds, best in ((2.0, 2.0), (0.5, 0.5), (4.0, 0.5)):
        monkeypatch.setattr(machine_room, "_fastest", lambda call, clock, seconds=seconds: seconds)
        assert rates(CPU, torch.float32) == {"matmul_flops_per_s": 2 * 1536**3 / best, "exps_per_s": 2**20 / best}
