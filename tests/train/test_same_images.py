"""A resumed run must find the images that it began with."""

import re

import pytest
from train.toy import MemoryLoader, toy_config, toy_net, val_loader

from attnconv.checks import InputError
from attnconv.train.checkpoint import load_checkpoint
from attnconv.train.fit import fit
from attnconv.train.run_state import changes_of_images

IMAGES = {
    "training": {"count": 100, "listing": "ab", "bytes": 5000},
    "validation": {"count": 21, "listing": "cd", "bytes": 700},
}


def run(out, images=IMAGES, *, faults=None, resume=False, progress=False):
    meta = {} if images is None else {"images": images}
    train = MemoryLoader(count=100, faults=faults)
    return fit(
        toy_net(), train, val_loader(), config=toy_config(epochs=2), out=out, meta=meta, resume=resume,
        progress=progress,
    )  # fmt: skip


def changed(kind="training", **values):
    return {**IMAGES, kind: {**IMAGES[kind], **values}}


@pytest.fixture
def stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, faults={(1, 2): KeyboardInterrupt()})
    return tmp_path


@pytest.mark.parametrize(
    ("images", "what"),
    [
        (changed(count=99), "100 training images, and now there are 99"),
        (changed(listing="ac"), "100 training images, and now some have other names or classes"),
        (changed("validation", count=22), "21 validation images, and now there are 22"),
        (changed("validation", listing="x"), "21 validation images, and now some have other names or classes"),
    ],
)
def test_other_images_are_refused(stopped, images, what):
    before = (stopped / "last.pt").read_bytes()
    line = f"last.pt was saved in a run on {what}: bring back those it began with, or start a new run"
    with pytest.raises(InputError, match=f"{re.escape(line)}$"):
        run(stopped, images, resume=True)
    assert (stopped / "last.pt").read_bytes() == before
    run(stopped, resume=True)


def test_changed_files_are_noted_once(stopped, capsys):
    run(stopped, changed(bytes=5001), resume=True, progress=True)
    note = (
        "note: files of training images have changed since the last checkpoint (5,000 bytes then, 5,001 now): "
        "the result will not be bit-identical"
    )
    assert capsys.readouterr().err.splitlines().count(note) == 1
    assert load_checkpoint(stopped / "last.pt")["meta"]["images"]["training"]["bytes"] == 5001


def test_the_same_images_are_passed_in_silence(stopped, capsys):
    run(stopped, resume=True, progress=True)
    assert "note" not in capsys.readouterr().err


def test_a_checkpoint_that_knows_nothing_of_its_images_is_trusted(stopped):
    path = stopped / "last.pt"
    assert changes_of_images({}, IMAGES, path) == changes_of_images(IMAGES, {}, path) == []
    assert changes_of_images(IMAGES, IMAGES, path) == []
