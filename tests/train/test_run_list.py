"""Runs as their files show them: states, damaged files, and that looking at them changes nothing."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from train.toy import MemoryLoader, toy_config, toy_net, val_loader

from attnconv.checks import InputError
from attnconv.files import locked
from attnconv.train import run_folder
from attnconv.train.fit import fit
from attnconv.train.run_folder import list_runs


def run(out, faults=None, resume=False, **options):
    train = MemoryLoader(faults=faults)
    return fit(
        toy_net(), train, val_loader(), config=toy_config(**options), out=out, meta={}, progress=False, resume=resume
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run and one that was stopped in its third epoch of four."""
    folder = tmp_path_factory.mktemp("made")
    run(folder / "finished", epochs=2)
    with pytest.raises(KeyboardInterrupt):
        run(folder / "stopped", epochs=4, faults={(2, 1): KeyboardInterrupt()})
    return folder


@pytest.fixture
def runs(made, tmp_path):
    shutil.copytree(made, tmp_path / "runs")
    return tmp_path / "runs"


def entries(folder):
    return {entry.name: entry for entry in list_runs(folder)}


def test_a_finished_run(runs):
    entry, result = entries(runs)["finished"], json.loads((runs / "finished" / "result.json").read_text())
    assert (entry.state, entry.problem) == ("finished", None)
    assert (entry.model, entry.data, entry.epochs_done, entry.epochs) == ("aa_convnet3", "digits", 2, 2)
    assert (entry.best_top1, entry.last_top1) == (result["best_top1"], result["top1"])
    assert entry.seconds == result["seconds"]
    newest = max(path.stat().st_mtime for path in (runs / "finished").iterdir())
    assert entry.changed == pytest.approx(newest, abs=1e-3)


def test_a_stopped_run(runs):
    rows = [line.split(",") for line in (runs / "stopped" / "metrics.csv").read_text().splitlines()]
    scores, seconds = ([float(row[rows[0].index(name)]) for row in rows[1:]] for name in ("val_top1", "seconds"))
    entry = entries(runs)["stopped"]
    assert (entry.state, entry.epochs_done, entry.epochs) == ("stopped", 2, 4)
    assert (entry.best_top1, entry.last_top1) == (max(scores), scores[-1])
    assert entry.seconds == pytest.approx(sum(seconds))
    run(runs / "stopped", epochs=4, resume=True)
    assert entries(runs)["stopped"].state == "finished"


def test_the_best_epoch_need_not_be_the_last(runs):
    (runs / "stopped" / "metrics.csv").write_text("epoch,val_top1,seconds\n1,50.5,2\n2,71.0,2\n3,60.0,2.5\n")
    entry = entries(runs)["stopped"]
    assert (entry.epochs_done, entry.best_top1, entry.last_top1, entry.seconds) == (3, 71.0, 60.0, 6.5)


def test_a_run_is_running_while_its_lock_is_held(runs):
    pytest.importorskip("fcntl")
    with locked(runs / "stopped"):
        assert entries(runs)["stopped"].state == "running"
        (runs / "stopped" / "config.yaml").write_text("[")
        assert entries(runs)["stopped"].state == "running"
        assert entries(runs)["stopped"].problem is not None
    assert entries(runs)["stopped"].state == "damaged"


def test_before_the_first_epoch(tmp_path):
    run(tmp_path / "run", epochs=1)
    for name in ("result.json", "last.pt", "best.pt", "metrics.csv"):
        (tmp_path / "run" / name).unlink()
    entry = entries(tmp_path)["run"]
    assert (entry.state, entry.epochs_done, entry.best_top1, entry.problem) == ("stopped", None, None, None)


@pytest.mark.parametrize(
    ("name", "contents", "problem"),
    [
        ("config.yaml", "", "config.yaml is damaged, or none of a run"),
        ("config.yaml", "a: [1", "config.yaml is damaged, or none of a run"),
        ("config.yaml", "!!python/object/apply:os.getcwd []", "config.yaml is damaged, or none of a run"),
        ("config.yaml", "model: [1]\ndata: digits\nepochs: 3\n", "config.yaml is damaged, or none of a run"),
        ("config.yaml", b"\xff\xfe\x00", "config.yaml is damaged, or none of a run"),
        ("metrics.csv", "", "metrics.csv is damaged, or none of a run"),
        ("metrics.csv", "epoch,val_top1\n1,2\n", "metrics.csv is damaged, or none of a run"),
        ("metrics.csv", "epoch,val_top1,seconds\n1,5", "metrics.csv is damaged, or none of a run"),
        ("metrics.csv", "epoch,val_top1,seconds\n1,much,3\n", "metrics.csv is damaged, or none of a run"),
        ("metrics.csv", "\0" * 50, "metrics.csv is damaged, or none of a run"),
        ("result.json", "{", "result.json is damaged, or none of a run"),
        ("result.json", "[]", "result.json is damaged, or none of a run"),
        ("result.json", "[" * 100_000, "result.json is damaged, or none of a run"),
        ("result.json", '{"epochs": "3"}', "result.json is damaged, or none of a run"),
    ],
)
def test_damaged_files_are_said(runs, name, contents, problem):
    (runs / "finished" / name).write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    found = entries(runs)
    assert (found["finished"].state, found["finished"].problem) == ("damaged", problem)
    assert found["stopped"].state == "stopped"


def test_a_folder_that_cannot_be_read(runs, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    (runs / "closed").mkdir()
    monkeypatch.setattr(run_folder.os, "scandir", refuse)
    entry = entries(runs)["closed"]
    assert (entry.state, entry.problem) == ("damaged", "cannot be read: Permission denied")


def test_where_runs_are_found(runs):
    """At any depth and through links, but not in hidden folders, nor in those that a run makes for trackers."""
    (runs / "deep" / "er").mkdir(parents=True)
    (runs / ".git").mkdir()
    (runs / "finished" / "wandb" / "offline-run-1" / "files").mkdir(parents=True)
    for place in (runs / "deep/er/run10", runs / "deep/er/run9", runs / ".git/run"):
        shutil.copytree(runs / "stopped", place)
    shutil.copy(runs / "stopped" / "config.yaml", runs / "finished" / "wandb" / "offline-run-1" / "files")
    elsewhere = runs.parent / "elsewhere"
    shutil.move(runs / "stopped", elsewhere)
    (runs / "link").symlink_to(elsewhere)
    (runs / "loop").symlink_to(runs)
    assert [entry.name for entry in list_runs(runs)] == ["deep/er/run9", "deep/er/run10", "finished", "link"]
    assert [entry.name for entry in list_runs(runs / "deep/er/run9")] == ["run9"]


def test_running_ones_come_first(runs):
    pytest.importorskip("fcntl")
    with locked(runs / "stopped"):
        assert [entry.name for entry in list_runs(runs)] == ["stopped", "finished"]


def test_nothing_is_written_and_no_lock_kept(runs):
    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in runs.rglob("*")}

    before = state()
    list_runs(runs)
    assert state() == before
    with locked(runs / "stopped"):
        assert list_runs(runs)[0].state == "running"


def test_no_such_folder(tmp_path):
    with pytest.raises(InputError, match=r"none does not exist; give the folder that holds the runs"):
        list_runs(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file; give the folder"):
        list_runs(tmp_path / "file")
    assert list_runs(tmp_path) == []


def test_a_list_needs_no_torch(runs):
    code = (
        "import sys; from pathlib import Path; from attnconv.train.run_folder import list_runs\n"
        f"assert len(list_runs(Path({str(runs)!r}))) == 2\nassert 'torch' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
