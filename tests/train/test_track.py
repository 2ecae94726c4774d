"""TensorBoard's files and the offline record of Weights & Biases hold what metrics.csv holds, each epoch once."""

import csv
import json
import os
import struct

import pytest
import torch
from train.toy import MemoryLoader, toy_config, toy_net, val_loader

from attnconv.checks import InputError
from attnconv.train import track
from attnconv.train.checkpoint import load_checkpoint
from attnconv.train.fit import fit
from attnconv.train.track import Tracker, identity_of


def run(out, faults=None, resume=False, progress=False, **options):
    train, config = MemoryLoader(faults=faults), toy_config(**options)
    return fit(toy_net(), train, val_loader(), config=config, out=out, meta={}, progress=progress, resume=resume)


def said(capfd):
    """The notes of a run and the line of its first epoch."""
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith(("note:", "epoch 1"))]


def rows(out):
    """Of metrics.csv, by epoch, as {column: number}."""
    with open(out / "metrics.csv", newline="") as file:
        found = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return {int(row.pop("epoch")): row for row in found}


def weights(out):
    return load_checkpoint(out / "last.pt")["model"]


def events(out):
    """Points of TensorBoard's event files, as it reads them: ({epoch: {name: value}}, number of points, reader)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    reader.Reload()
    points, count = {}, 0
    for name in reader.Tags()["scalars"]:
        for point in reader.Scalars(name):
            points.setdefault(point.step, {})[name] = point.value
            count += 1
    return points, count, reader


def records(out):
    """The records, and the folder, of the one offline run below ``out``: blocks of 32 KiB, as LevelDB's logs."""
    import wandb
    from wandb.proto import wandb_internal_pb2 as proto

    wandb.teardown()  # waits until all is written
    (path,) = out.glob("wandb/offline-run-*/run-*.wandb")
    data, position, part, found = path.read_bytes(), 7, b"", []
    while position + 7 <= len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        part += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            found.append(proto.Record.FromString(part))
            part = b""
    return found, path.parent


def items(parts):
    return {part.key or "/".join(part.nested_key): json.loads(part.value_json) for part in parts}


def logged(out):
    """Rows in the offline run of Weights & Biases, by step, each of which may come once."""
    found = [items(record.history.item) for record in records(out)[0] if record.HasField("history")]
    steps = [record.history.step.num for record in records(out)[0] if record.HasField("history")]
    assert len(set(steps)) == len(steps)
    return {step: {k: v for k, v in row.items() if k[0] != "_"} for step, row in zip(steps, found, strict=True)}


def assert_same(points, expected):
    assert points.keys() == expected.keys()
    for epoch, row in expected.items():
        assert points[epoch] == pytest.approx(row, rel=1e-6)  # TensorBoard has float32


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Neither a key nor a network for Weights & Biases, whatever this machine has."""
    wandb = pytest.importorskip("wandb")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    wandb.teardown()
    yield monkeypatch
    wandb.teardown()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run that nobody tracks."""
    out = tmp_path_factory.mktemp("plain")
    run(out)
    return out


def test_tensorboard_holds_what_the_table_holds(tmp_path, plain):
    run(tmp_path, track="tensorboard")
    points, count, reader = events(tmp_path)
    assert_same(points, rows(tmp_path))
    assert count == 3 * len(rows(tmp_path)[1])
    start = reader.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    options = HParamsPluginData.FromString(start).session_start_info.hparams
    assert options["model"].string_value == "aa_convnet3"
    assert options["batch_size"].number_value == 8
    assert all(torch.equal(a, b) for a, b in zip(weights(tmp_path).values(), weights(plain).values(), strict=True))


@pytest.mark.parametrize("first", ["none", "tensorboard"])
def test_tensorboard_after_a_resume(tmp_path, first):
    """One file, each epoch once, in order of time; those before tracking too."""
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, track=first, epochs=4, faults={(2, 1): KeyboardInterrupt()})
    if first == "tensorboard":
        assert_same(events(tmp_path)[0], rows(tmp_path))
        assert len(rows(tmp_path)) == 2
    run(tmp_path, track="tensorboard", epochs=4, resume=True)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
    points, count, reader = events(tmp_path)
    assert_same(points, rows(tmp_path))
    assert count == 4 * len(rows(tmp_path)[1])
    times = [point.wall_time for point in reader.Scalars("lr")]
    assert times == sorted(times)
    assert times[1] - times[0] == pytest.approx(rows(tmp_path)[2]["seconds"], rel=1e-3)


def test_tensorboard_does_not_keep_what_another_run_left(tmp_path):
    run(tmp_path, track="tensorboard", epochs=3)
    for name in ("config.yaml", "metrics.csv", "last.pt", "best.pt", "result.json"):
        (tmp_path / name).unlink()
    (tmp_path / "tensorboard" / "notes.txt").write_text("mine")
    run(tmp_path, track="tensorboard", epochs=1)
    assert_same(events(tmp_path)[0], rows(tmp_path))
    assert (tmp_path / "tensorboard" / "notes.txt").exists()


def test_wandb_offline_holds_what_the_table_holds(tmp_path, plain, offline, capfd):
    run(tmp_path / "run", track="wandb", progress=True)
    assert_same(logged(tmp_path / "run"), rows(tmp_path / "run"))
    found, folder = records(tmp_path / "run")
    options = items(next(record.run.config.update for record in found if record.HasField("run")))
    assert (options["model"], options["batch_size"]) == ("aa_convnet3", 8)
    described = next(record.run for record in found if record.HasField("run"))
    assert (described.project, described.display_name) == ("attnconv", "run")
    out, err = capfd.readouterr()
    assert out == ""
    first, *others = err.splitlines()[6:]
    assert first == f"note: Weights & Biases: offline (no API key is set); `wandb sync {folder}` sends it"
    assert [line[:5] for line in others] == ["epoch"] * 4
    a, b = weights(tmp_path / "run"), weights(plain)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_wandb_after_a_resume(tmp_path, offline):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, track="wandb", epochs=4, faults={(2, 1): KeyboardInterrupt()})
    identity = (tmp_path / "wandb" / "run-id.txt").read_text().strip()
    before = records(tmp_path)[1]
    assert_same(logged(tmp_path), rows(tmp_path))
    (tmp_path / "wandb" / "offline-run-20200101_000000-other").mkdir()
    os.rename(before, before.with_name(f"offline-run-20200101_000000-{identity}"))  # not of the same second
    run(tmp_path, track="wandb", epochs=4, resume=True)
    (tmp_path / "wandb" / "offline-run-20200101_000000-other").rmdir()  # still there
    assert records(tmp_path)[1].name.endswith(identity)
    assert_same(logged(tmp_path), rows(tmp_path))
    assert len(rows(tmp_path)) == 4


def test_another_run_in_the_same_folder_gets_another_id(tmp_path):
    one = identity_of(tmp_path / "wandb", fresh=True)
    assert identity_of(tmp_path / "wandb", fresh=False) == one
    assert identity_of(tmp_path / "wandb", fresh=True) != one


@pytest.mark.parametrize(
    ("mode", "kept"), [("online", "offline (no API key is set)"), ("offline", "offline"), ("disabled", "disabled")]
)
def test_wandb_mode_is_heeded_and_nobody_is_asked(tmp_path, offline, capfd, mode, kept):
    offline.setenv("WANDB_MODE", mode)
    offline.setattr("builtins.input", lambda *_: pytest.fail("asked for a key"))
    run(tmp_path / "run", track="wandb", epochs=1, progress=True)
    assert said(capfd)[0].startswith(f"note: Weights & Biases: {kept}")
    assert bool(list(tmp_path.glob("run/wandb/offline-run-*"))) == (mode != "disabled")


def test_wandb_with_a_key_but_no_server(tmp_path, offline, capfd):
    offline.setenv("WANDB_API_KEY", "0" * 40)
    offline.setattr("wandb.login", lambda **_: (_ for _ in ()).throw(ConnectionError("no route\nto host")))
    run(tmp_path, track="wandb", epochs=1, progress=True)
    assert said(capfd)[0].startswith("note: Weights & Biases: offline (no route); `wandb sync")
    assert_same(logged(tmp_path), rows(tmp_path))


@pytest.mark.slow
def test_wandb_with_a_key_and_a_port_that_nobody_serves(tmp_path, offline, capfd):
    offline.setenv("WANDB_API_KEY", "0" * 40)
    run(tmp_path, track="wandb", epochs=1, progress=True)
    note, line = said(capfd)
    assert note.startswith("note: Weights & Biases: offline (Failed to authenticate with http://127.0.0.1:9")
    assert line.startswith("epoch 1/1")
    assert_same(logged(tmp_path), rows(tmp_path))


def test_a_service_that_cannot_start_is_one_line_before_training(tmp_path, offline, capfd):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "tensorboard").write_text("a file")
    run(tmp_path / "one", track="tensorboard", epochs=1, progress=True)
    first, second = said(capfd)
    assert first.startswith("note: tracking by tensorboard cannot start: ")
    assert first.endswith("; the run goes on without it")
    assert second.startswith("epoch 1/1")
    offline.setattr("wandb.init", lambda **_: (_ for _ in ()).throw(RuntimeError("broken\npipes")))
    run(tmp_path / "two", track="wandb", epochs=1, progress=True)
    first, second = said(capfd)
    assert first == "note: tracking by wandb cannot start: broken; the run goes on without it"
    assert (tmp_path / "two" / "result.json").exists()


class Fake:
    """A service that counts; each of ``faults`` is the number of a call of write that fails."""

    def __init__(self, faults=()):
        self.rows, self.closed, self.calls, self.faults = [], None, 0, faults

    def write(self, rows):
        self.calls += 1
        if self.calls in self.faults:
            raise OSError(28, "No space left on device")
        self.rows += rows

    def close(self, failed):
        self.closed = failed


def tracker(monkeypatch, services, **options):
    left, said = list(services), []
    monkeypatch.setattr(Tracker, "_open", lambda self: left.pop(0))
    config = toy_config(track="tensorboard")
    return Tracker(config, "run", fresh=True, say=said.append, **options), said


def test_a_service_that_fails_is_said_once_and_left_alone(monkeypatch):
    service = Fake(faults=[2])
    following, said = tracker(monkeypatch, [service])
    with following:
        for count in range(4):
            following.follow([{"epoch": i} for i in range(count)])
    assert said == [
        "tracking by tensorboard has stopped: [Errno 28] No space left on device; the run goes on without it"
    ]
    assert (service.calls, service.closed) == (2, True)


def test_a_run_that_has_gone_back_is_recorded_anew(monkeypatch):
    one, two = Fake(), Fake()
    following, said = tracker(monkeypatch, [one, two])
    with following:
        following.follow([])
        following.follow(["a"])
        following.follow(["a", "b"])
        following.follow(["a"])
        following.follow(["a", "c"])
        assert (one.rows, one.closed) == (["a", "b"], False)
    assert (two.rows, two.closed, said) == (["a", "c"], False, [])


def test_a_failed_run_is_recorded_as_failed(monkeypatch):
    service = Fake()
    following, _ = tracker(monkeypatch, [service])
    following.follow([])
    following.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert service.closed is True


def test_only_the_first_process_tracks(monkeypatch):
    following, _ = tracker(monkeypatch, [], active=False)
    with following:
        following.follow(["a"])


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_named_before_anything_is_written(tmp_path, monkeypatch, name):
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(InputError, match=rf"this needs {name}: pip install 'attnconv\[track\]'"):
        run(tmp_path / "run", track=name)
    assert not (tmp_path / "run").exists()
    track.require_service(toy_config())
