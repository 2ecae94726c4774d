"""A run that SIGKILL ends at a random moment, and that is resumed, ends in the bits of one that nothing disturbed.

Each in one process and, marked slow, in two. `pytest -s -q -m slow tests/train/test_killed.py` prints where the twenty
were killed.
"""

import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from attnconv.train.checkpoint import load_checkpoint

SCRIPT = Path(__file__).with_name("killed_run.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
KILLS = 20
SAVES = 11  # of last.pt, before the one at the very end: three an epoch, and one at its end
TIMES = ("seconds", "images_per_second")
FILES = ["best.pt", "config.yaml", "last.pt", "metrics.csv", "result.json"]
BROKEN = ("train/0/3.png", "val/1/1.png", "val/2/0.png")  # of two processes, each has one of the latter two


def start(folder, out, processes, *, resume=False):
    command = [sys.executable, str(SCRIPT), str(folder), str(out), str(processes), *(["resume"] if resume else [])]
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(process):
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """train/<class>/* and val/<class>/*: three classes of twelve and four coloured noises."""
    path, noise = tmp_path_factory.mktemp("images"), torch.Generator().manual_seed(0)
    for part, count in (("train", 12), ("val", 4)):
        for label in range(3):
            (path / part / str(label)).mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(160, (20, 16, 3), generator=noise, dtype=torch.uint8)
                pixels[..., label] += 90
                Image.fromarray(pixels.numpy()).save(path / part / str(label) / f"{number}.png")
    for name in BROKEN:
        assert (path / name).exists()
        (path / name).write_text("no image")
    return path


@pytest.fixture(scope="module")
def undisturbed(folder, tmp_path_factory):
    """The folder of a run, by the number of processes."""
    runs = {}

    def run(processes):
        if processes not in runs:
            runs[processes] = tmp_path_factory.mktemp("undisturbed") / "run"
            finish(start(folder, runs[processes], processes))
        return runs[processes]

    return run


def wait_for(process, path):
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a if key not in (*TIMES, "waited"))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def rows(out):
    with open(out / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def wait_for_saves(process, path, count):
    """Wait until ``path`` has been written ``count`` times or the run is over; mean seconds from one to the next."""
    began, seen, last = time.monotonic(), 0, None
    while seen < count and process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            if (now := path.stat().st_mtime_ns) != last:
                seen, last = seen + 1, now
        time.sleep(0.002)
    return (time.monotonic() - began) / count if count else 0.3


def killed_and_resumed(folder, out, processes, moment):
    """Run, kill the whole group at ``moment``, 0 to 1 by the checkpoints written, and resume; where it was killed.

    Counting checkpoints and not seconds: the machine may be slower, or quicker, than a moment ago. A run that was over
    before the signal came is begun again.
    """
    for attempt in range(10):
        run = out.with_name(f"attempt{attempt}")
        process = start(folder, run, processes)
        wait_for(process, run / "config.yaml")
        saves = int(moment * SAVES)
        time.sleep((moment * SAVES - saves) * wait_for_saves(process, run / "last.pt", saves))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if not (run / "result.json").exists():
            run.rename(out)
            break
    else:
        pytest.fail("ten runs were over before they could be killed")
    where = "before the first checkpoint"
    if (out / "last.pt").exists():
        state = load_checkpoint(out / "last.pt")
        where = f"after the checkpoint of epoch {state['epoch'] + 1}, batch {state['step_in_epoch']}"
    left = [path.name for path in out.glob("*.tmp")]
    finish(start(folder, out, processes, resume=True))
    return where + f", while {' and '.join(left)} was written" * bool(left)


def assert_same_end(out, undisturbed):
    assert sorted(path.name for path in out.iterdir()) == FILES
    for name in ("last.pt", "best.pt"):
        one, other = load_checkpoint(out / name), load_checkpoint(undisturbed / name)
        assert [key for key in one if key not in TIMES and not same(one[key], other[key])] == []
    assert rows(out) == rows(undisturbed)


ONE_OR_TWO = pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])


@ONE_OR_TWO
def test_the_run_is_as_hard_to_resume_as_it_says(folder, undisturbed, processes):
    out = undisturbed(processes)
    state = load_checkpoint(out / "last.pt")
    assert state["processes"] == processes
    assert state["scaler"]["scale"] < 2.0**20  # it has been lowered, and is part of the state
    assert state["average"].keys() <= state["model"].keys()
    assert any(not torch.equal(state["average"][name], state["model"][name]) for name in state["average"])
    assert state["skipped"] == sorted(str(folder / name) for name in BROKEN)  # those of both processes
    assert json.loads((out / "result.json").read_text())["skipped_images"] == len(BROKEN)


@ONE_OR_TWO
def test_a_run_killed_at_a_random_moment_ends_in_the_same_bits(folder, tmp_path, undisturbed, processes):
    print(killed_and_resumed(folder, tmp_path / "run", processes, random.random()))
    assert_same_end(tmp_path / "run", undisturbed(processes))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("number", range(KILLS))
def test_a_run_killed_at_twenty_random_moments(folder, tmp_path, undisturbed, number, processes):
    where = killed_and_resumed(folder, tmp_path / "run", processes, (number + random.random()) / KILLS)
    print(f"kill {number + 1} of {KILLS}, {processes} process{'es' * (processes > 1)}: {where}")
    assert_same_end(tmp_path / "run", undisturbed(processes))


@pytest.mark.parametrize(
    ("processes", "sent"),
    [
        (1, signal.SIGTERM),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((2, signal.SIGTERM), (1, signal.SIGINT), (2, signal.SIGINT))
        ),
    ],
)
def test_a_signal_to_all_processes_of_a_run_loses_nothing(folder, tmp_path, undisturbed, processes, sent):
    """As a scheduler and a terminal send it: to the workers that decode, too."""
    out = undisturbed(processes)
    process = start(folder, tmp_path / "run", processes)
    wait_for(process, tmp_path / "run" / "best.pt")
    os.killpg(process.pid, sent)
    _, err = process.communicate(timeout=60)
    assert ("attnconv.signals.Terminated" if sent == signal.SIGTERM else "KeyboardInterrupt") in err
    assert "DataLoader worker" not in err
    assert not (tmp_path / "run" / "result.json").exists()
    finish(start(folder, tmp_path / "run", processes, resume=True))
    assert_same_end(tmp_path / "run", out)
