"""A folder that is saved over: killed at any step it gives the old network or the new one, and nothing else is lost."""

import json
import os
from pathlib import Path

import pytest
import torch

from attnconv import checks
from attnconv.files import locked
from attnconv.models import create_model, from_pretrained, saved

pytest.importorskip("safetensors")

STEPS = ("open", "replace", "unlink", "fsync", "close")  # of the operating system, by which files change


class Killed(BaseException):
    """The end of the process: nothing that would tidy up runs after it, since each further step raises it too."""


def network(seed, name="convnet3"):
    torch.manual_seed(seed)
    return create_model(name, num_classes=3, in_channels=1, image_size=8).eval()


def answer(model):
    with torch.no_grad():
        return model(torch.linspace(-1, 1, 128).view(2, 1, 8, 8))


class Dying:
    """Counts the steps of ``os`` and dies at number ``last``, before it is done or after."""

    def __init__(self, monkeypatch, last, *, after):
        self.steps, self.last, self.after = 0, last, after
        for name in STEPS:
            monkeypatch.setattr(os, name, self.counted(getattr(os, name), kept=name in ("open", "close")))
        monkeypatch.setattr(Path, "unlink", self.counted(Path.unlink))

    def counted(self, step, *, kept=False):
        def call(*args, **kwargs):
            if self.steps > self.last and not kept:
                raise Killed
            self.steps += not kept
            if self.steps > self.last and not kept and not self.after:
                raise Killed
            done = step(*args, **kwargs)
            if self.steps > self.last and not kept:
                raise Killed
            return done

        return call


def count_steps(tmp_path, old, new):
    old.save_pretrained(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        dying = Dying(patch, 10**9, after=False)
        new.save_pretrained(tmp_path)
    return dying.steps


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("there", ["another network", "the same", "nothing", "another name"])
def test_killed_at_any_step_the_old_or_the_new_network_loads(tmp_path, there, after):
    new, third = network(1), network(2)
    old = {"another network": network(0), "the same": network(1), "nothing": None, "another name": network(0, "unet")}
    old = old[there]
    steps = count_steps(tmp_path / "counted", old or network(0), new)
    assert steps >= 8
    came = []
    for last in range(steps):
        folder = tmp_path / str(last)
        if old is not None:
            old.save_pretrained(folder)
            (folder / ".git").mkdir()
            (folder / ".git" / "HEAD").write_text("mine")
        with pytest.MonkeyPatch.context() as patch:
            Dying(patch, last, after=after)
            with pytest.raises(Killed):
                new.save_pretrained(folder)
        came.append(what_loads(folder, old, new))
        # What the next one does: all is as if nothing had happened, and no half is left.
        third.save_pretrained(folder)
        assert torch.equal(answer(from_pretrained(folder)), answer(third))
        names = {path.name for path in folder.iterdir()} - {".git"}
        assert names == {"config.json", "model.safetensors", "README.md"}
        assert old is None or (folder / ".git" / "HEAD").read_text() == "mine"
    assert came == sorted(came, key=["nothing", "old", "new"].index)
    assert came[-1] == "new"
    if there != "the same":
        assert came[0] == ("nothing" if old is None else "old")


def what_loads(folder, old, new):
    if old is None and not (folder / "config.json").exists():
        return "nothing"
    found = from_pretrained(folder)
    if type(found) is type(new) and torch.equal(answer(found), answer(new)):
        return "new"
    assert type(found) is type(old)
    assert torch.equal(answer(found), answer(old))
    return "old"


def test_weights_that_wait_are_taken_to_no_other_folder(tmp_path):
    """config.json names weights by a checksum alone: no path leads out of the folder."""
    network(0).save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    (tmp_path / "saved" / "config.json").write_text(json.dumps({**config, "sha256": "/../../model"}))
    with pytest.raises(checks.InputError, match=r"damaged or was changed: config\.json has another checksum"):
        from_pretrained(tmp_path / "saved")


def test_one_process_at_a_time_saves_into_a_folder(tmp_path):
    network(0).save_pretrained(tmp_path)
    with locked(tmp_path), pytest.raises(checks.InputError, match="another process is at work in"):
        network(1).save_pretrained(tmp_path)
    assert torch.equal(answer(from_pretrained(tmp_path)), answer(network(0)))


def test_what_a_person_keeps_in_the_folder_stays(tmp_path):
    kept = tmp_path / "kept"
    network(0).save_pretrained(kept)
    (kept / "README.md").write_text("mine")
    (kept / "model-00001-of-00002.safetensors").write_bytes(b"theirs")
    (kept / "notes").mkdir()
    (tmp_path / "link").symlink_to(kept)
    network(1).save_pretrained(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (kept / "README.md").read_text() == "mine"
    assert (kept / "model-00001-of-00002.safetensors").read_bytes() == b"theirs"
    assert (kept / "notes").is_dir()
    assert torch.equal(answer(from_pretrained(kept)), answer(network(1)))


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_the_files_have_the_modes_that_the_umask_says(tmp_path, mask):
    before = os.umask(mask)
    try:
        network(0).save_pretrained(tmp_path / "saved")
        network(1).save_pretrained(tmp_path / "saved")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "saved").iterdir()}
    assert modes == dict.fromkeys(("config.json", "model.safetensors", "README.md"), 0o666 & ~mask)


def test_a_full_disk_leaves_the_old_network(tmp_path, monkeypatch):
    network(0).save_pretrained(tmp_path)
    exchange = saved.replacing

    def full(path):
        if path.name == "config.json":
            raise OSError(28, "No space left on device")
        return exchange(path)

    monkeypatch.setattr(saved, "replacing", full)
    with pytest.raises(checks.InputError, match=r"cannot write a network to .*: No space left on device"):
        network(1).save_pretrained(tmp_path)
    assert torch.equal(answer(from_pretrained(tmp_path)), answer(network(0)))
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors", "README.md"}
