"""Shards of WebDataset: docs/data.md makes a folder of them, or batches."""

from pathlib import Path

import pytest
import torch
from docs.blocks import ROOT, blocks_of

from attnconv.cli import main
from attnconv.data import load_data

webdataset = pytest.importorskip("webdataset")
CLASSES = ("cat", "dog", "newt")


@pytest.fixture(scope="module")
def page():
    """The names that the Python of docs/data.md makes."""
    names = {}
    for block in blocks_of((ROOT / "docs/data.md").read_text(), "docs/data.md"):
        if block.language == "python":
            exec(block.text, names)
    return names


def shards_of(source: Path, out: Path) -> list[str]:
    """The images under ``source``/<class>/ in shards of three."""
    with webdataset.ShardWriter(f"{out}-%06d.tar", maxcount=3, verbose=0) as shards:
        for path in sorted(source.rglob("*.jpg")):
            key, label = f"{path.parent.name}/{path.stem}", CLASSES.index(path.parent.name)
            shards.write({"__key__": key, "jpg": path.read_bytes(), "cls": label})
    return sorted(str(path) for path in out.parent.glob(f"{out.name}-*.tar"))


def test_shards_become_a_folder_of_the_same_images(page, image_folder, tmp_path):
    for part, count in (("train", 5), ("val", 2)):
        shards = shards_of(image_folder / part, tmp_path / part)
        assert len(shards) == count
        page["unpack"](shards, tmp_path / "again" / part, list(CLASSES))
    data, again = load_data(str(image_folder)), load_data(str(tmp_path / "again"))
    assert (again.classes, again.val.labels) == (data.classes, data.val.labels)
    for ours, theirs in ((again.train, data.train), (again.val, data.val)):
        assert all(Path(a).read_bytes() == Path(b).read_bytes() for a, b in zip(ours.paths, theirs.paths, strict=True))


def test_a_loop_of_ones_own_reads_shards_as_validation_reads_files(page, image_folder, tmp_path):
    shards = shards_of(image_folder / "val", tmp_path / "val")
    found = [torch.cat(parts) for parts in zip(*page["batches"](shards, 2), strict=True)]
    data = load_data(str(image_folder), image_size=128)
    (expected,) = data.val_loader(batch_size=5, device=torch.device("cpu"), workers=0).epoch(0)
    assert sorted(found[1].tolist()) == sorted(expected.labels.tolist())
    distances = (found[0][:, None] - expected.images).abs().amax((2, 3, 4))  # read in another order
    assert distances.amin(1).max() == 0
    assert torch.equal(expected.labels[distances.argmin(1)], found[1])


def test_the_command_that_made_shards_is_gone(capsys):
    assert main(["shards", "FOLDER", "--out", "SHARDS"]) == 2
    line = "webdataset writes shards; docs/data.md turns them into a folder of images"
    assert capsys.readouterr().err == f"attnconv: error: attnconv shards was removed; {line}\n"
