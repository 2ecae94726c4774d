"""Folders of images that change while a run trains on them, or between its halves."""

import os
import re
import shutil

import pytest
import torch

from attnconv.checks import InputError
from attnconv.data import load_data
from attnconv.data.batches import fingerprint as fingerprint_of
from attnconv.recipes import run
from attnconv.train.config import RunConfig

CPU = torch.device("cpu")


def loader(folder, *, skip=False, workers=0):
    data = load_data(str(folder), image_size=16, skip_bad_images=skip)
    return data.train_loader(batch_size=data.num_train, seed=0, device=CPU, workers=workers)


def delete(path):
    path.unlink()


def replace(path):
    """By another good image."""
    shutil.copy(path.with_name("101.jpg"), path)
    with path.open("ab") as file:
        file.write(b"\0")


def overwrite(path):
    path.write_text("no picture at all")


CHANGES = [
    (delete, "cannot read image {path}: No such file or directory"),
    (replace, r"image {path} has changed: it has \d+ bytes, and had \d+ when it was listed"),
    (overwrite, "image {path} has changed: it has 17 bytes, and had 1[0-9]{{3}} when it was listed"),
]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_an_image_that_changes_after_the_listing_is_named(image_folder, change, message, workers):
    train = loader(image_folder, workers=workers)
    next(train.epoch(0))
    path = image_folder / "train" / "dog" / "102.jpg"
    change(path)
    line = message.format(path=re.escape(str(path))) + "; --skip-bad-images leaves such files out"
    with pytest.raises(InputError, match=f"^{line}$"):
        next(train.epoch(1))


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_or_it_is_left_out_and_counted(image_folder, change, message):
    train = loader(image_folder, skip=True)
    path = image_folder / "train" / "dog" / "102.jpg"
    change(path)
    assert len(next(train.epoch(1)).labels) == 12
    assert train.skipped == [str(path)]


def test_a_link_that_leads_nowhere_is_listed_and_left_out(image_folder):
    link = image_folder / "train" / "cat" / "zz.jpg"
    link.symlink_to("nowhere.jpg")
    train = loader(image_folder, skip=True)
    assert [len(batch.labels) for batch in train.epoch(0)] == [13]
    assert train.skipped == [str(link)]


def test_a_new_image_is_not_seen_until_the_next_listing(image_folder):
    train = loader(image_folder)
    before = next(train.epoch(0)).labels
    shutil.copy(image_folder / "train" / "dog" / "102.jpg", image_folder / "train" / "cat" / "new.jpg")
    assert torch.equal(next(train.epoch(0)).labels, before)


def fingerprint(folder, **options):
    return load_data(str(folder), **options).meta()["images"]


def test_a_fingerprint_moves_with_its_folder(image_folder, tmp_path):
    before = fingerprint(image_folder)
    assert before["training"] == {**before["training"], "count": 13}
    assert fingerprint(image_folder.rename(tmp_path / "moved")) == before


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        (lambda cat: (cat / "000.jpg").unlink(), {"count", "listing", "bytes"}),
        (lambda cat: (cat / "000.jpg").rename(cat / "x.jpg"), {"listing"}),
        (lambda cat: (cat / "000.jpg").rename(cat.parent / "dog" / "000.jpg"), {"listing"}),
        (lambda cat: os.truncate(cat / "000.jpg", 100), {"bytes"}),
    ],
)
def test_a_fingerprint_tells(image_folder, change, keys):
    before = fingerprint(image_folder)
    change(image_folder / "train" / "cat")
    after = fingerprint(image_folder)
    assert {key for key in before["training"] if before["training"][key] != after["training"][key]} == keys
    assert after["validation"] == before["validation"]


def test_a_fingerprint_tells_the_labels_of_images_without_names():
    images = [("0", 1, 64), ("1", 0, 64), ("2", 1, 64)]
    known, other = fingerprint_of(images), fingerprint_of([("0", 1, 64), ("1", 1, 64), ("2", 0, 64)])
    assert known == fingerprint_of(iter(images))
    assert (known["count"], known["bytes"]) == (other["count"], other["bytes"]) == (3, 192)
    assert known["listing"] != other["listing"]


def test_the_fingerprint_of_a_subset_is_that_of_its_images(image_folder):
    subset = fingerprint(image_folder, train_subset=6)["training"]
    assert subset["count"] == 6
    assert subset == fingerprint(image_folder, train_subset=6)["training"]
    assert fingerprint(image_folder, train_subset=13)["training"] == fingerprint(image_folder)["training"]


def test_a_run_is_not_resumed_on_other_images(image_folder, tmp_path):
    config = RunConfig(
        model="convnet3", data=str(image_folder), image_size=16, epochs=2, batch_size=4, workers=0, device="cpu",
        checkpoint_steps=1,
    )  # fmt: skip
    gone = image_folder / "train" / "cat" / "000.jpg"
    kept = gone.read_bytes()
    gone.write_bytes(b"")
    with pytest.raises(InputError, match="cannot decode image"):
        run(config, tmp_path / "run", progress=False)
    gone.unlink()
    with pytest.raises(InputError, match=r"on 13 training images, and now there are 12: bring back"):
        run(config, tmp_path / "run", resume=True, progress=False)
    gone.write_bytes(kept)  # mended: other bytes than then, and the run goes on
    assert run(config, tmp_path / "run", resume=True, progress=False)["epochs"] == 2
