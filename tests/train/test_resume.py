"""A run that was stopped and resumed ends in the same bits as one that was not."""

import csv
import errno
import os
import re
import signal

import pytest
import torch
import yaml
from train.toy import MemoryLoader, toy_config, toy_net, val_loader

from attnconv.checks import InputError
from attnconv.signals import Terminated
from attnconv.train.checkpoint import load_checkpoint, save_checkpoint
from attnconv.train.fit import fit
from attnconv.train.run_folder import RunFolder

EPOCHS, BATCHES = 3, 13  # looks at the losses come after 10 steps and at 13


def config(**options):
    return toy_config(epochs=EPOCHS, label_smoothing=0.1, **options)


def run(out, *, model=None, train_faults=None, val=None, resume=False, progress=False, **options):
    train = MemoryLoader(count=100, faults=train_faults)
    assert len(train) == BATCHES
    # A resumed run gets a network of other weights: all of them have to come from the checkpoint.
    model = model or toy_net(seed=7 if resume else 0)
    val = val or val_loader()
    return fit(model, train, val, config=config(**options), out=out, meta={}, resume=resume, progress=progress)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


TIMES = ("seconds", "images_per_second")


def untimed(path):
    """A checkpoint without what the clock put into it."""
    state = load_checkpoint(path)
    state["history"] = [{k: v for k, v in row.items() if k not in TIMES} for row in state["history"]]
    assert state.pop("seconds") > 0
    return state


def rows(out):
    with open(out / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def assert_same_end(out, undisturbed):
    assert same(untimed(out / "last.pt"), untimed(undisturbed / "last.pt"))
    assert same(untimed(out / "best.pt"), untimed(undisturbed / "best.pt"))
    assert len(rows(out)) == EPOCHS
    assert rows(out) == rows(undisturbed)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """By options, the folder of a run that nothing interrupted."""
    folders = {}

    def folder(**options):
        key = tuple(options.items())
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("undisturbed")
            run(folders[key], **options)
        return folders[key]

    return folder


@pytest.mark.parametrize(
    ("epoch", "batch"), [(0, 0), (0, 1), (1, 0), (1, 5), (1, 10), (2, 12)], ids=lambda number: str(number)
)
def test_an_interrupt_while_a_batch_is_loaded(tmp_path, undisturbed, epoch, batch):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, train_faults={(epoch, batch): KeyboardInterrupt()})
    state = load_checkpoint(tmp_path / "last.pt")
    assert (state["epoch"], state["step_in_epoch"]) == (epoch, batch)
    assert len(rows(tmp_path)) == epoch
    assert not (tmp_path / "result.json").exists()
    run(tmp_path, resume=True)
    assert_same_end(tmp_path, undisturbed())


class InterruptedAt(MemoryLoader):
    """Raises KeyboardInterrupt in the second batch of one of its passes, counted from 0."""

    def __init__(self, number):
        super().__init__(count=21, shuffle=False, seed=1)
        self.passes_left = number

    def epoch(self, epoch, start=0):
        for batch, pair in enumerate(super().epoch(epoch, start)):
            if self.passes_left == 0 and batch == 1:
                raise KeyboardInterrupt
            yield pair
        self.passes_left -= 1


@pytest.mark.parametrize("epoch", [0, EPOCHS - 1])
def test_an_interrupt_in_validation(tmp_path, undisturbed, epoch):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, val=InterruptedAt(epoch))
    state = load_checkpoint(tmp_path / "last.pt")
    assert (state["epoch"], state["step_in_epoch"]) == (epoch, BATCHES)
    run(tmp_path, resume=True)
    assert_same_end(tmp_path, undisturbed())


def test_a_signal_inside_a_step_is_raised_after_it(tmp_path, undisturbed):
    model = toy_net()
    steps = []

    def interrupt(module, args, output):
        if module.training:
            steps.append(1)
            if len(steps) == BATCHES + 4:
                signal.raise_signal(signal.SIGINT)

    model.head.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, model=model)
    state = load_checkpoint(tmp_path / "last.pt")
    assert (state["epoch"], state["step_in_epoch"]) == (1, 4)
    run(tmp_path, resume=True)
    assert_same_end(tmp_path, undisturbed())


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adam"},
        {"optimizer": "adamw"},
        {"optimizer": "rmsprop"},
        {"optimizer": "radam", "schedule": "flat-cosine"},
        {"optimizer": "ranger", "schedule": "flat-cosine"},  # 18 steps: between two looks ahead
        {"optimizer": "sgd", "base_momentum": 0.7, "max_momentum": 0.95},
        {"optimizer": "adamw", "base_momentum": 0.85, "max_momentum": 0.95},
        {"precision": "bf16"},
        {"ema": 0.9},
        {"accumulate": 3, "clip": 0.1},
        {"channels_last": True},
    ],
)
def test_other_optimizers_and_precisions(tmp_path, undisturbed, options):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, train_faults={(1, 5): KeyboardInterrupt()}, **options)
    run(tmp_path, resume=True, **options)
    assert_same_end(tmp_path, undisturbed(**options))


class Gappy(MemoryLoader):
    """Batches 1 and 12 of each epoch are empty, as if none of their images could be decoded."""

    def epoch(self, epoch, start=0):
        for number, (images, labels) in enumerate(super().epoch(epoch, start), start):
            kept = 0 if number in (1, 12) else len(labels)
            yield images[:kept], labels[:kept]


def test_empty_batches_are_counted(tmp_path):
    def gappy_run(name, resume=False, **options):
        model = toy_net(seed=7 if resume else 0)
        loaders = Gappy(count=100, **options), val_loader()
        return fit(model, *loaders, config=config(), out=tmp_path / name, meta={}, resume=resume, progress=False)

    gappy_run("undisturbed")
    assert [row["step"] for row in rows(tmp_path / "undisturbed")] == ["13", "26", "39"]
    with pytest.raises(KeyboardInterrupt):
        gappy_run("stopped", faults={(1, 3): KeyboardInterrupt()})
    assert load_checkpoint(tmp_path / "stopped" / "last.pt")["step_in_epoch"] == 3
    gappy_run("stopped", resume=True)
    assert_same_end(tmp_path / "stopped", tmp_path / "undisturbed")


def test_a_run_stopped_twice(tmp_path, undisturbed):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, train_faults={(1, 3): KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, train_faults={(1, 4): KeyboardInterrupt()}, resume=True)
    run(tmp_path, resume=True)
    assert_same_end(tmp_path, undisturbed())


def test_a_crash_goes_back_to_the_end_of_an_epoch_and_cuts_the_metrics(tmp_path, undisturbed):
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, train_faults={(2, 6): ZeroDivisionError()})
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("3,39,0.1,half a ro")  # as if it had been killed later
    assert load_checkpoint(tmp_path / "last.pt")["epoch"] == 2
    run(tmp_path, resume=True)
    assert_same_end(tmp_path, undisturbed())


def test_a_run_killed_before_its_first_checkpoint(tmp_path, undisturbed, monkeypatch):
    monkeypatch.setattr(RunFolder, "forget_empty_run", lambda self: None)  # a killed process tidies nothing
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, train_faults={(0, 6): ZeroDivisionError()})
    assert not (tmp_path / "last.pt").exists()
    run(tmp_path, model=toy_net(), resume=True)
    assert_same_end(tmp_path, undisturbed())


def fail_at(number, call=os.fsync):
    """os.fsync that finds the disk full from its ``number``-th call on."""
    calls = []

    def fsync(file):
        calls.append(file)
        if len(calls) >= number:
            raise OSError(errno.ENOSPC, "No space left on device")
        call(file)

    return fsync


@pytest.mark.parametrize("number", [1, 2, 5, 12, 15, 17, 19])
def test_a_disk_that_fills_up_costs_no_more_than_what_was_not_saved(tmp_path, undisturbed, monkeypatch, number):
    monkeypatch.setattr(os, "fsync", fail_at(number))
    with pytest.raises(InputError, match=r"^cannot write .*: No space left on device$"):
        run(tmp_path / "run")
    monkeypatch.undo()
    started = (tmp_path / "run").exists()
    assert started == (number > 5)  # config.yaml, its folder, metrics.csv, its folder: then the first checkpoint
    run(tmp_path / "run", resume=started)
    assert_same_end(tmp_path / "run", undisturbed())


def test_checkpoints_between_the_ends_of_epochs(tmp_path, undisturbed):
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, train_faults={(1, 9): ZeroDivisionError()}, checkpoint_steps=4)
    state = load_checkpoint(tmp_path / "last.pt")
    assert (state["epoch"], state["step_in_epoch"]) == (1, 7)  # step 20 of 13 an epoch
    assert load_checkpoint(tmp_path / "previous.pt")["step_in_epoch"] == 3
    run(tmp_path, resume=True)
    for name in ("last.pt", "best.pt"):  # whose configurations differ in checkpoint_steps
        assert same(untimed(tmp_path / name)["model"], untimed(undisturbed() / name)["model"])
    assert rows(tmp_path) == rows(undisturbed())


def damage(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("the code in a checkpoint was run",)


def bomb(path):
    torch.save({"format": 2, "meta": Bomb()}, path)


@pytest.mark.parametrize("harm", [damage, cut, bomb, lambda path: path.write_bytes(b""), lambda path: path.unlink()])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, undisturbed, capsys, harm):
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, train_faults={(2, 3): ZeroDivisionError()})
    harm(tmp_path / "last.pt")
    run(tmp_path, resume=True, progress=True)
    note = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("note: "))
    assert re.fullmatch(r"note: .*last\.pt.*; the run goes on from (previous|best)\.pt, at epoch [23], batch 1", note)
    assert_same_end(tmp_path, undisturbed())
    assert not (tmp_path / "previous.pt").exists()


def test_the_good_checkpoint_outlives_the_damaged_one(tmp_path, undisturbed):
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, train_faults={(2, 3): ZeroDivisionError()})
    (tmp_path / "best.pt").unlink()
    damage(tmp_path / "last.pt")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, resume=True, train_faults={(1, 3): KeyboardInterrupt()})
    assert load_checkpoint(tmp_path / "previous.pt")["step_in_epoch"] == 0
    damage(tmp_path / "last.pt")
    run(tmp_path, resume=True)
    assert same(untimed(tmp_path / "last.pt"), untimed(undisturbed() / "last.pt"))


def test_where_all_checkpoints_are_damaged_the_last_is_named(stopped):
    (stopped / "previous.pt").write_bytes((stopped / "last.pt").read_bytes())
    damage(stopped / "last.pt")
    damage(stopped / "previous.pt")
    with pytest.raises(InputError, match=r"last.pt is damaged or was changed: its contents do not have the checksum"):
        run(stopped, resume=True)


def test_sigterm_saves_and_leaves(tmp_path, undisturbed):
    before = signal.getsignal(signal.SIGTERM)
    train = MemoryLoader(count=100, faults={(1, 6): lambda images: (signal.raise_signal(signal.SIGTERM), images)[1]})
    with pytest.raises(Terminated):
        fit(toy_net(), train, val_loader(), config=config(), out=tmp_path, meta={}, progress=False)
    assert signal.getsignal(signal.SIGTERM) == before
    assert load_checkpoint(tmp_path / "last.pt")["step_in_epoch"] == 6
    run(tmp_path, resume=True)
    assert_same_end(tmp_path, undisturbed())


def test_a_run_that_fails_before_its_first_checkpoint_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "run", train_faults={(0, 6): ZeroDivisionError()})
    assert not (tmp_path / "run").exists()


def test_a_run_that_fails_later_keeps_its_checkpoint(tmp_path, undisturbed):
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, train_faults={(1, 6): ZeroDivisionError()})
    run(tmp_path, resume=True)
    assert_same_end(tmp_path, undisturbed())


def test_a_run_killed_before_its_result_was_written(tmp_path):
    result = run(tmp_path)
    (tmp_path / "result.json").unlink()
    again = run(tmp_path, resume=True)
    assert {**again, "seconds": 0} == {**result, "seconds": 0}


def test_the_comparison_notices_another_seed(tmp_path, undisturbed):
    run(tmp_path, seed=1)
    assert not same(untimed(tmp_path / "last.pt")["model"], untimed(undisturbed() / "last.pt")["model"])


def test_seconds_include_those_before_the_interrupt(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, train_faults={(1, 5): KeyboardInterrupt()})
    state = load_checkpoint(tmp_path / "last.pt")
    state["seconds"] += 1000
    del state["format"]
    save_checkpoint(tmp_path / "last.pt", state)
    assert 1000 < run(tmp_path, resume=True)["seconds"] < 2000


def test_skipped_images_include_those_before_the_interrupt(stopped):
    state = load_checkpoint(stopped / "last.pt")
    state["skipped"] = ["seen before.png"]
    del state["format"]
    save_checkpoint(stopped / "last.pt", state)
    assert run(stopped, resume=True)["skipped_images"] == 1


def test_a_finished_run_is_not_trained_again(tmp_path):
    result = run(tmp_path)
    before = {name: os.stat(tmp_path / name).st_mtime_ns for name in os.listdir(tmp_path)}
    assert run(tmp_path, resume=True, train_faults={(0, 0): ZeroDivisionError()}, val=InterruptedAt(0)) == result
    assert {name: os.stat(tmp_path / name).st_mtime_ns for name in os.listdir(tmp_path)} == before


@pytest.fixture
def stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, train_faults={(0, 2): KeyboardInterrupt()})
    return tmp_path


def test_another_configuration_is_refused(stopped):
    before = (stopped / "last.pt").read_bytes()
    with pytest.raises(
        InputError, match=r"another configuration: lr was 0.05 and is now 0.5; seed was 0 and is now 1$"
    ):
        run(stopped, resume=True, lr=0.5, seed=1)
    assert (stopped / "last.pt").read_bytes() == before


def test_another_configuration_is_refused_before_the_first_checkpoint(stopped):
    (stopped / "last.pt").unlink()
    with pytest.raises(InputError, match=r"another configuration: lr was 0.05 and is now 0.5$"):
        run(stopped, resume=True, lr=0.5)


def test_device_and_workers_may_differ(stopped):
    run(stopped, resume=True, device="auto" if not torch.cuda.is_available() else "cpu", workers=0)
    assert yaml.safe_load((stopped / "config.yaml").read_text())["workers"] == 0


def test_another_number_of_batches_is_refused(stopped):
    message = (
        r"last.pt was saved in a run of 13 batches an epoch, and now there are 4: the training images have changed"
    )
    with pytest.raises(InputError, match=message):
        fit(toy_net(), MemoryLoader(), val_loader(), config=config(), out=stopped, meta={}, resume=True, progress=False)


def test_another_network_is_refused(stopped):
    with pytest.raises(InputError, match=r"last.pt is a checkpoint of 'aa_convnet3': 'key_rel_w' is \(4, 2\) in it"):
        run(stopped, model=toy_net(width=6), resume=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("result.json", '{"top1": ', r"result.json is damaged: Expecting value"),
        ("last.pt", "", r"last.pt is cut short or damaged"),
    ],
)
def test_damaged_files(stopped, name, content, message):
    (stopped / name).write_text(content)
    with pytest.raises(InputError, match=message):
        run(stopped, resume=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("lr: [0.1", r"config.yaml is damaged: .*expected"),
        ("lrr: 0.1", r"unknown option in .*config.yaml 'lrr'; nearest: 'lr'"),
    ],
)
def test_damaged_configuration(stopped, content, message):
    (stopped / "last.pt").unlink()
    (stopped / "config.yaml").write_text(content)
    with pytest.raises(InputError, match=message):
        run(stopped, resume=True)


def test_another_number_of_threads_is_noted(stopped, capsys):
    state = load_checkpoint(stopped / "last.pt")
    state["threads"] += 1
    del state["format"]
    save_checkpoint(stopped / "last.pt", state)
    fit(
        toy_net(),
        MemoryLoader(count=100),
        val_loader(),
        config=config(),
        out=stopped,
        meta={},
        resume=True,
        progress=True,
    )
    note = f"\nnote: the run began with {state['threads']} CPU threads and goes on with "
    assert note in capsys.readouterr().err
    assert load_checkpoint(stopped / "last.pt")["threads"] == state["threads"]
