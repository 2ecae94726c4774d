"""Shards that are missing, cut short, changed or not what they should be: one clear line each."""

import gzip
import io
import json
import os
import re
import shutil
import tarfile

import pytest
import torch
from data.conftest import write_images

from attnconv.checks import InputError
from attnconv.data import load_data
from attnconv.data.shard_scan import scan, split_name
from attnconv.data.shard_writer import write_shards

CPU = torch.device("cpu")
JPEG = b"\xff\xd8\xff not decoded here"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    for part, classes in (("train", ("cat", "dog")), ("val", ("dog",))):
        for number, name in enumerate(classes):
            write_images(folder / "images" / part / name, 3, first=10 * number)
    write_shards(load_data(str(folder / "images")), folder / "shards", images_per_shard=4)
    return folder / "shards"


@pytest.fixture
def shards(made, tmp_path):
    """train-000000.tar, train-000001.tar and val-000000.tar: of cat and dog."""
    return shutil.copytree(made, tmp_path / "shards")


def write_tar(path, members):
    """A tar file of (name, content) pairs."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(*labels):
    return [pair for i, label in enumerate(labels) for pair in ((f"{i}.jpg", JPEG), (f"{i}.cls", b"%d" % label))]


def edit_index(**values):
    def change(folder):
        described = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps({**described, **values}))

    return change


def cut(name, size):
    return lambda folder: os.truncate(folder / name, size)


def unlink(name):
    return lambda folder: (folder / name).unlink()


ANEW = "; `attnconv shards {folder}` makes the index anew"
IT_ANEW = "; `attnconv shards {folder}` makes it anew"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unlink("train-000001.tar"), "shard {folder}/train-000001.tar is missing, index.json names it" + ANEW),
        (
            lambda folder: shutil.copy(folder / "train-000001.tar", folder / "train-000002.tar"),
            "shard {folder}/train-000002.tar is not in index.json" + ANEW,
        ),
        (
            cut("train-000001.tar", 2000),
            r"shard {folder}/train-000001.tar has 2,000 bytes, and index.json says \d+,\d+: it is cut short or has "
            "changed" + ANEW,
        ),
        (cut("index.npy", 100), "{folder}/index.npy has not the checksum that index.json gives" + IT_ANEW),
        (unlink("index.npy"), "cannot read {folder}/index.npy: No such file or directory" + IT_ANEW),
        (cut("index.json", 40), r"{folder}/index.json is damaged \(JSONDecodeError: [^\n]+\)" + IT_ANEW),
        (edit_index(shards=[]), r"{folder}/index.json is damaged \(AttributeError: [^\n]+\)" + IT_ANEW),
        (edit_index(classes="cat"), r"{folder}/index.json is damaged \(TypeError: [^\n]+\)" + IT_ANEW),
        (edit_index(format=2), "{folder}/index.json is of format 2, this version reads 1" + IT_ANEW),
        (
            edit_index(classes=["cat"]),
            r"{folder}/train-00000\d.tar: 00000000\d.jpg is of class 1, and there are 1, from 0 on",
        ),
    ],
)
def test_an_index_that_does_not_fit(shards, change, message):
    change(shards)
    with pytest.raises(InputError, match=f"^{message.format(folder=re.escape(str(shards)))}$"):
        load_data(str(shards))


def spoil(path, index):
    """Change a byte in the last image, and let size and time of the file be."""
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(scan(path)[index].offset + 100)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


CHANGED = "image {image} is not the one that was indexed: the shard is cut short, damaged or changed"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("change", "first", "message"),
    [
        (lambda path: spoil(path, -1), 2, CHANGED),
        (lambda path: os.truncate(path, scan(path)[1].offset + 50), 1, CHANGED),
        (lambda path: path.unlink(), 0, "cannot read image {image}: No such file or directory"),
    ],
)
def test_a_shard_that_changes_while_it_is_in_use(shards, change, first, message, workers):
    data, skipping = (load_data(str(shards), image_size=16, skip_bad_images=skip) for skip in (False, True))
    images = [data.val.name(i) for i in range(3)]
    change(shards / "val-000000.tar")
    line = message.format(image=re.escape(images[first])) + "; --skip-bad-images leaves such files out"
    with pytest.raises(InputError, match=f"^{line}$"):
        list(data.val_loader(batch_size=3, device=CPU, workers=workers).epoch(0))
    loader = skipping.val_loader(batch_size=3, device=CPU, workers=workers)
    (batch,) = loader.epoch(0)
    assert loader.skipped == images[first:]
    assert len(batch.labels) == first


def test_what_cannot_be_read_is_not_cached(shards):
    data = load_data(str(shards), image_size=16, skip_bad_images=True, cache_images=True)
    spoil(shards / "val-000000.tar", 1)
    loader = data.val_loader(batch_size=3, device=CPU, workers=0)
    assert [len(batch.labels) for epoch in (0, 1) for batch in loader.epoch(epoch)] == [2, 2]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([*samples(0), ("1.jpg", JPEG)], "{path}: 1.jpg has no label, 1.cls"),
        ([*samples(0), ("1.cls", b"0")], "{path}: '1' has a label and no image"),
        ([*samples(0), ("0.png", JPEG)], "{path}: '0' has two images"),
        ([*samples(0), ("0.cls", b"0")], "{path}: '0' has two labels"),
        ([("0.jpg", JPEG), ("0.cls", b"dog")], "{path}: 0.cls must hold a class number from 0 on, got 'dog'"),
        ([("0.jpg", JPEG), ("0.cls", b"-1")], "{path}: 0.cls must hold a class number from 0 on, got '-1'"),
        ([("0.jpg", JPEG), ("0.cls", b"9" * 99)], f"{{path}}: 0.cls must hold .*, got '{'9' * 20}'"),
        ([("readme.txt", b"hello")], r"shard {path} holds no image \(jpg, jpeg, png, .*\)"),
        ([], r"shard {path} holds no image \(jpg, jpeg, png, .*\)"),
    ],
)
def test_what_a_shard_may_not_hold(tmp_path, members, message):
    path = write_tar(tmp_path / "train-0.tar", members)
    with pytest.raises(InputError, match=f"^{message.format(path=re.escape(str(path)))}$"):
        scan(path)


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        (lambda data: b"", "shard {path} is compressed, cut short, damaged or no tar file: empty file"),
        (lambda data: b"no tar file" * 99, "shard {path} is compressed, cut short, damaged or no tar file: .+"),
        (gzip.compress, "shard {path} is compressed, cut short, damaged or no tar file: .+"),
        (lambda data: data[:2048], "shard {path} is cut short or damaged after 1 images"),  # at the end of a member
        (lambda data: data[:1800], "shard {path} is compressed, cut short, damaged or no tar file: .*"),
        (lambda data: data[:2148], "shard {path} is (cut short or damaged after 1 images|compressed, .*)"),
        (lambda data: data[:2048] + b"x" * 512 + data[2560:], "shard {path} is cut short or damaged after 1 images"),
    ],
)
def test_a_file_that_is_no_whole_tar_file(tmp_path, spoiled, message):
    path = write_tar(tmp_path / "train-0.tar", samples(0, 1))
    path.write_bytes(spoiled(path.read_bytes()))
    with pytest.raises(InputError, match=f"^{message.format(path=re.escape(str(path)))}$"):
        scan(path)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("0001.jpg", ("0001", "jpg")),
        ("a.b/01.JPG", ("a.b/01", "jpg")),
        ("a/01.seg.png", ("a/01", "seg.png")),
        ("a/.hidden", ("", "")),
        ("README", ("README", "")),
        ("__meta__/x.jpg", ("", "")),
    ],
)
def test_keys_and_suffixes(name, parts):
    assert split_name(name) == parts


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        (samples(0, 1), None, r"folder {folder} has no val-\*.tar; expected train-\*.tar and val-\*.tar"),
        (None, samples(0, 1), r"folder {folder} has no train-\*.tar; expected train-\*.tar and val-\*.tar"),
        (
            samples(1, 2),
            samples(1),
            r"the labels of {folder}/train-\*.tar go to 2, but no image has label 0; they must number the classes "
            "from 0 on",
        ),
        (samples(0, 5), samples(0), r"the labels of {folder}/train-\*.tar go to 5, but no image has label 1; .*"),
        (samples(0, 1), samples(0, 2), "{folder}/val-0.tar: 1.jpg is of class 2, and there are 2, from 0 on"),
    ],
)
def test_folders_of_shards_from_elsewhere(tmp_path, train, val, message):
    for part, members in (("train", train), ("val", val)):
        if members is not None:
            write_tar(tmp_path / f"{part}-0.tar", members)
    with pytest.raises(InputError, match=f"^{message.format(folder=re.escape(str(tmp_path)))}$"):
        load_data(str(tmp_path))
    assert not (tmp_path / "index.json").exists()


def test_an_empty_folder(tmp_path):
    with pytest.raises(InputError, match=r"has no train/; expected .*, or shards train-\*.tar and val-\*.tar$"):
        load_data(str(tmp_path))


def test_other_members_and_folders_in_a_shard_are_passed_over(tmp_path):
    path = write_tar(tmp_path / "train-0.tar", [*samples(3), ("0.json", b"{}"), ("0.seg.png", b""), ("notes", b"")])
    (member,) = scan(path)
    assert (member.key, member.name, member.size, member.label) == ("0", "0.jpg", len(JPEG), 3)
    with open(path, "rb") as file:
        assert file.read()[member.offset : member.offset + member.size] == JPEG
