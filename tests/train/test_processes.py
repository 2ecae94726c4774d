"""Two processes on a CPU, over gloo: the same metrics as one, exact resume, and the end of one that loses the other."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from train.processes_run import TAKEN
from train.toy import MemoryLoader, toy_config, toy_net, val_loader

from attnconv import SimpleSelfAttention
from attnconv.checks import InputError
from attnconv.data.batches import BatchOrder
from attnconv.train.checkpoint import load_checkpoint, load_weights
from attnconv.train.device import fabric_of
from attnconv.train.evaluate import evaluate
from attnconv.train.fit import fit
from attnconv.train.processes import STARTED_BY, launch, launched, process_count

SCRIPT = Path(__file__).with_name("processes_run.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def start(out, launcher=(), environment=None, **options):
    command = [sys.executable, *launcher, str(SCRIPT), str(out), json.dumps(options)]
    environment = {**ENVIRONMENT, **(environment or {})}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out), err


def weights(out):
    return load_checkpoint(out / "last.pt")["model"]


def run_here(out, faults=None, resume=False, attention=False, **options):
    """The same run as `start`'s with groups for its norm, in this process alone."""
    net = toy_net(dropout=0.0, norm=partial(torch.nn.GroupNorm, 2))
    if attention:
        net = torch.nn.Sequential(SimpleSelfAttention(3), net)
    config = toy_config(**options)
    train = MemoryLoader(count=80, batch_size=config.batch_size, faults=faults)
    taken = TAKEN if config.freeze_epochs else ()
    return fit(net, train, val_loader(), config=config, out=out, meta={}, taken_over=taken, resume=resume)


def same_weights(one, other):
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rows(out):
    with open(out / "metrics.csv", newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


METRICS = ("train_loss", "train_top1", "val_loss", "val_top1", "val_top5")


def test_two_processes_give_the_metrics_of_one(tmp_path):
    """Also of what rests at first, whose gradients DDP has to exchange from the second epoch on."""
    frozen = {"init_from": "timm", "freeze_epochs": 1}
    run_here(tmp_path / "one", epochs=3, lr=0.3, **frozen)
    result, err = finish(start(tmp_path / "two", epochs=3, devices=2, track="tensorboard", lr=0.3, **frozen))
    assert err.count("epoch 1/3") == 1  # one process speaks
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
        "best.pt", "config.yaml", "last.pt", "metrics.csv", "result.json", "tensorboard",
    ]  # fmt: skip
    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1
    assert result["top1"] == rows(tmp_path / "two")[-1]["val_top1"]
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert [two[name] for name in METRICS] == pytest.approx([one[name] for name in METRICS], rel=1e-5)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-6)


def test_two_processes_measure_attention_switched_off(tmp_path):
    options = {"attention": True, "epochs": 2, "lr": 0.3}
    one = run_here(tmp_path / "one", **options)["attention_off"]
    two = finish(start(tmp_path / "two", devices=2, **options))[0]["attention_off"]
    assert one["logits_moved"] > 0.01
    assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.slow
def test_started_by_torchrun(tmp_path):
    torchrun = (
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(random.randint(20000, 60000)),
    )
    process = start(tmp_path / "run", torchrun, epochs=1)
    finish(process)
    assert load_checkpoint(tmp_path / "run" / "last.pt")["processes"] == 2


@pytest.mark.slow
def test_started_by_slurm(tmp_path):
    """Under the variables that srun gives each of its processes."""
    job = {
        "SLURM_JOB_ID": str(random.randint(5000, 9999)), "SLURM_JOB_NAME": "attnconv", "SLURM_NODELIST": "localhost",
        "SLURM_NNODES": "1", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "0",
    }  # fmt: skip
    ranks = [{**job, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2)]
    started = [start(tmp_path / "run", epochs=1, environment=variables) for variables in ranks]
    for process in started:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert load_checkpoint(tmp_path / "run" / "last.pt")["processes"] == 2
    assert (out, "epoch 1/1" in err) == ("", False)  # the second says nothing


def wait_for(process, condition, what):
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    pytest.fail(f"waited in vain for {what}")


def kill_all(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    process.stderr.close()


def test_unequal_parts_of_a_batch_give_the_metrics_of_one_process(tmp_path):
    """Batches of 7 images are 4 and 3, in 4 parts at most."""
    options = {"batch_size": 7, "accumulate": 4, "clip": 0.5, "on_nan": "skip", "lr": 0.3}
    run_here(tmp_path / "one", epochs=2, **options)
    finish(start(tmp_path / "two", epochs=2, devices=2, **options))
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert [two[name] for name in METRICS] == pytest.approx([one[name] for name in METRICS], rel=1e-5)
    model, path = toy_net(seed=5, dropout=0.0, norm=partial(torch.nn.GroupNorm, 2)), tmp_path / "two" / "best.pt"
    load_weights(model, load_checkpoint(path), path)
    assert evaluate(model, val_loader()).top1 == json.loads((tmp_path / "two" / "result.json").read_text())["best_top1"]


OPTIONS = {"epochs": 4, "devices": 2, "checkpoint_steps": 3, "norm": "batch", "ema": 0.9, "optimizer": "ranger"}


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_one_of_two_processes_is_killed(tmp_path, rank):
    process = start(tmp_path / "run", pause=0.05, **OPTIONS)
    wait_for(process, (tmp_path / "run" / "best.pt").exists, "the first epoch")
    pids = [int((tmp_path / f"run-pid-{n}").read_text()) for n in range(2)]
    os.kill(pids[rank], signal.SIGKILL)
    began = time.monotonic()
    err = process.stderr.read()  # which both hold open
    assert time.monotonic() - began < 60
    process.wait()
    assert process.returncode != 0
    assert f"process {1 - rank} of 2 cannot go on, perhaps because another one has ended" in err
    finish(start(tmp_path / "run", resume=True, **OPTIONS))
    assert len(rows(tmp_path / "run")) == 4


def test_sigterm_to_one_process_stops_both_and_saves(tmp_path):
    finish(start(tmp_path / "whole", **OPTIONS))
    process = start(tmp_path / "run", pause=0.05, **OPTIONS)
    wait_for(process, (tmp_path / "run" / "best.pt").exists, "the first epoch")
    os.kill(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert "attnconv.signals.Terminated" in err
    assert "terminate called" not in err  # as threads of gloo do that are left running
    finish(start(tmp_path / "run", resume=True, **OPTIONS))
    assert same_weights(tmp_path / "run", tmp_path / "whole")


def test_what_the_user_can_mend_is_said_once(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("mine")
    process = start(tmp_path / "run", devices=2)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert err.count("already holds a run: give --resume") == 1


def note(then, now):
    return f"note: the run began with {then} processes and goes on with {now}: its result will not be bit-identical"


def test_a_checkpoint_of_another_number_of_processes_is_noted(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        run_here(tmp_path / "run", faults={(1, 0): KeyboardInterrupt()}, epochs=2)
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    torch.save({**state, "processes": 2}, tmp_path / "run" / "last.pt")
    run_here(tmp_path / "run", resume=True, epochs=2)
    assert note(2, 1) in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("then", "now"), [(2, 1), (1, 2)])
def test_another_number_of_processes_is_noted(tmp_path, then, now):
    process = start(tmp_path / "run", pause=0.05, **{**OPTIONS, "devices": then})
    wait_for(process, (tmp_path / "run" / "best.pt").exists, "the first epoch")
    kill_all(process)
    _, err = finish(start(tmp_path / "run", resume=True, **{**OPTIONS, "devices": now}))
    assert note(then, now) in err


TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"}
SLURM = {"SLURM_PROCID": "0", "SLURM_NNODES": "2", "SLURM_NTASKS": "6", "SLURM_JOB_NAME": "train"}


@pytest.fixture
def environment(monkeypatch):
    for name in (*TORCHRUN, *SLURM, "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    return lambda values: [monkeypatch.setenv(*pair) for pair in values.items()]


@pytest.mark.parametrize(
    ("values", "arguments", "expected"),
    [
        ({}, ("cpu", None, 1), (1, 1)),
        ({}, ("cpu", 3, 1), (3, 1)),
        ({}, ("cpu", "auto", 1), (1, 1)),
        ({}, ("cuda", None, 1), (1, 1)),
        ({}, ("cuda", "auto", 1), (4, 1)),
        ({"NODE_RANK": "1"}, ("cuda", "auto", 2), (4, 2)),
        (TORCHRUN, ("cuda", None, 1), (2, 2)),
        (TORCHRUN, ("cpu", 2, 2), (2, 2)),
        (SLURM, ("cuda", "auto", 1), (3, 2)),
        ({**SLURM, "SLURM_JOB_NAME": "bash"}, ("cuda", 2, 1), (2, 1)),
    ],
)
def test_how_many_processes(environment, monkeypatch, values, arguments, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    environment(values)
    assert process_count(*arguments) == expected


@pytest.mark.parametrize(
    ("values", "arguments", "message"),
    [
        (TORCHRUN, ("cpu", 3, 1), r"^torchrun started 2 processes a machine, and devices is 3$"),
        (SLURM, ("cpu", None, 3), r"^srun started processes on 2 machines, and nodes is 3$"),
        ({}, ("cuda", 5, 1), r"^devices is 5, and this machine has 4 GPUs$"),
        ({}, ("mps", 2, 1), r"^device 'mps' runs one process, got devices 2 and nodes 1$"),
        ({}, ("cpu", 2, 2), r"^nodes is 2: start the run on each machine by torchrun or srun, or set NODE_RANK"),
    ],
)
def test_processes_that_cannot_be(environment, monkeypatch, values, arguments, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    environment(values)
    with pytest.raises(InputError, match=message):
        process_count(*arguments)


def test_no_launcher(environment):
    assert launched() is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sync_batchnorm": True}, r"^sync_batchnorm needs several processes on GPUs, got 1 on 'cpu'$"),
        ({"devices": 9}, r"^batch_size must be at least the number of processes, 9, got 8$"),
    ],
)
def test_what_does_not_go_together_is_said_before_anything_starts(options, message):
    with pytest.raises(InputError, match=message):
        fabric_of(toy_config(**options))


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("seed", [None, 3])
def test_each_image_of_an_epoch_belongs_to_one_process(world, seed):
    whole = BatchOrder(22, 5, seed)
    parts = [whole.shard(rank, world).batches(1, start=1) for rank in range(world)]
    assert {len(part) for part in parts} == {len(whole) - 1}
    for number, batch in enumerate(whole.batches(1, start=1)):
        together = torch.cat([part[number] for part in parts])
        assert sorted(together.tolist()) == sorted(batch.tolist())


STUCK = """
import time
from attnconv.train import processes
processes.PAUSE, processes.PATIENCE = 0.05, 0.2
processes.launch(lambda: print("stuck", flush=True))
time.sleep(300)
"""
FIRST = """
import subprocess, sys, time
from attnconv.train import processes
def start():
    subprocess.Popen([sys.executable, "-c", sys.argv[2]])
processes.launch(start) if sys.argv[1] == "in launch" else start()
time.sleep(300)
"""


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
@pytest.mark.parametrize("when", ["in launch", "later"])
def test_a_stuck_process_ends_after_its_first_one(when):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", FIRST, when, STUCK]
    first = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert first.stdout.readline() == "stuck\n"
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    if when == "in launch":
        assert "the first process of this run has ended; --resume goes on" in first.stderr.read()  # until it has ended
    else:
        time.sleep(0.6)
        os.killpg(first.pid, 0)  # raises if nobody of the group is left
        os.killpg(first.pid, signal.SIGKILL)
        assert first.stderr.read() == ""
    first.stdout.close()
    first.stderr.close()


def test_what_is_started_later_is_not_marked():
    marks = []
    launch(lambda: marks.append(os.environ[STARTED_BY]))
    assert marks == [str(os.getpid())]
    assert STARTED_BY not in os.environ
