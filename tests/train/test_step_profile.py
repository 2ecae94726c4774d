"""The profile of a run: what it says, and that it changes nothing."""

import gzip
import json
import time

import pytest
import torch
from train.toy import MemoryLoader, toy_config, toy_net, val_loader

from attnconv.train import step_profile
from attnconv.train.checkpoint import load_checkpoint
from attnconv.train.evaluate import TrainSums
from attnconv.train.fit import fit

FIRST = step_profile.ALONE + step_profile.WARM_UP + step_profile.TRACED  # steps that are not timed


class Slow(MemoryLoader):
    pause = 0.0  # seconds before each batch

    def epoch(self, epoch, start=0):
        for batch in super().epoch(epoch, start):
            time.sleep(self.pause)
            yield batch


def run(out, pause=0.0, count=100, resume=False, profile=True, faults=None, **options):
    train = Slow(count=count, faults=faults)
    train.pause = pause
    config = toy_config(**{"epochs": 2, **options})
    return fit(
        toy_net(), train, val_loader(), config=config, out=out, meta={}, progress=False, resume=resume, profile=profile
    )


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    out = tmp_path_factory.mktemp("profiled")
    return out, run(out)


def test_the_parts_of_a_step(profiled):
    out, result = profiled
    profile = result["profile"]
    assert json.loads((out / "result.json").read_text())["profile"] == profile
    assert profile["steps"] == 2 * 13 - FIRST
    assert profile["step_ms"] > 0
    assert 0 < profile["loader_share"] < 100
    assert profile["images_per_second"] > 0


class Others:
    """Another process has seen twice the images of this one."""

    first = False

    def sum(self, values):
        return 3 * values


def test_the_sums_of_the_timed_steps(tmp_path, monkeypatch):
    """Steps of 2 s, and one of 12; 0.5 s of each is a wait; a second between two epochs belongs to no step."""
    now, sums = [100.0], TrainSums()
    monkeypatch.setattr(step_profile.time, "perf_counter", lambda: now[0])
    with step_profile.StepProfile(torch.device("cpu"), tmp_path, Others()) as profile:
        for steps in ([9.0] * FIRST + [2.0, 12.0], [2.0, 2.0]):
            now[0] += 1.0
            profile.epoch_begins(sums)
            for seconds in steps:
                now[0] += seconds
                sums.waited += 0.5
                profile.step_done(sums, 8)
            sums = TrainSums()
    found = profile.summary()
    assert (found["steps"], found["step_ms"]) == (4, 2000.0)
    assert found["loader_share"] == pytest.approx(100 * 4 * 0.5 / 18)
    assert found["images_per_second"] == pytest.approx(3 * 4 * 8 / 18)


def test_operators_are_those_that_take_longest(profiled):
    operators = profiled[1]["profile"]["operators"]
    assert len(operators) == step_profile.OPERATORS
    assert [entry["ms"] for entry in operators] == sorted((entry["ms"] for entry in operators), reverse=True)
    assert sum(entry["share"] for entry in operators) <= 100.001
    assert all(entry["ms"] > 0 and entry["calls"] > 0 for entry in operators)
    names = {entry["name"] for entry in operators}
    assert "aten::convolution_backward" in names
    assert not any(name.startswith(step_profile.NONE) for name in names)


def test_the_trace_is_one_that_a_browser_opens(profiled):
    out, result = profiled
    with gzip.open(out / result["profile"]["trace"]) as file:
        names = {event["name"] for event in json.load(file)["traceEvents"]}
    assert "aten::convolution_backward" in names
    assert {f"ProfilerStep#{number}" for number in range(3, 6)} <= names
    assert "ProfilerStep#6" not in names


def test_nothing_that_is_computed_changes(profiled, tmp_path):
    out, _ = profiled
    result = run(tmp_path, profile=False)
    assert "profile" not in result
    assert not (tmp_path / "profile").exists()
    one, other = (load_checkpoint(folder / "last.pt") for folder in (out, tmp_path))
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in other["model"])
    assert [row["train_loss"] for row in one["history"]] == [row["train_loss"] for row in other["history"]]


def test_a_loader_that_keeps_steps_waiting_is_seen(tmp_path):
    profile = run(tmp_path, pause=0.05, epochs=1)["profile"]
    assert profile["step_ms"] >= 50
    images = 8 * (profile["steps"] - 1) + 4  # the last batch is of 4
    waited = profile["loader_share"] / 100 * images / profile["images_per_second"]
    assert waited >= 0.05 * profile["steps"] * 0.999


def test_a_run_of_few_steps(tmp_path):
    profile = run(tmp_path, count=FIRST * 8, epochs=1)["profile"]
    assert (profile["steps"], profile["step_ms"], profile["images_per_second"]) == (0, None, None)
    assert profile["operators"]
    profile = run(tmp_path / "fewer", count=FIRST * 8 - 8, epochs=1)["profile"]
    assert (profile["operators"], profile["trace"]) == ([], None)


def test_an_interrupted_run_ends_its_trace_and_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, faults={(0, 4): KeyboardInterrupt()})
    assert not (tmp_path / "profile").exists()
    assert not torch.autograd._profiler_enabled()
    assert run(tmp_path, resume=True)["profile"]["steps"] == 2 * 13 - 4 - FIRST


def test_a_trace_that_cannot_be_written_ends_no_run(tmp_path):
    (tmp_path / "profile").write_text("a file")
    profile = run(tmp_path)["profile"]
    assert (profile["operators"], profile["trace"]) == ([], None)
    assert profile["steps"] > 0
