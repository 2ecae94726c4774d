"""Shards of images: read as the files that they were made of, and by WebDataset; and shards that WebDataset made."""

import glob
import json
import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
import torch

from attnconv.checks import InputError, MissingExtraError
from attnconv.data import load_data, shard_writer
from attnconv.data.shard_writer import write_shards
from attnconv.recipes import run
from attnconv.train.checkpoint import load_checkpoint
from attnconv.train.config import RunConfig

CPU = torch.device("cpu")


def make(folder, out, **options):
    write_shards(load_data(str(folder)), out, images_per_shard=3, **options)
    return out


@pytest.fixture
def shards(image_folder, tmp_path):
    return make(image_folder, tmp_path / "shards")


def same(a, b) -> bool:
    return all(torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True))


def test_a_folder_of_shards_is_data(shards, image_folder):
    assert {path.name for path in shards.iterdir()} == {
        "index.json", "index.npy", "val-000000.tar", "val-000001.tar", *(f"train-00000{i}.tar" for i in range(5)),
    }  # fmt: skip
    data, files = load_data(str(shards)), load_data(str(image_folder))
    assert (data.num_train, data.num_val, data.classes) == (13, 5, ("cat", "dog", "newt"))
    meta, expected = data.meta(), files.meta()
    assert meta.pop("images")["training"]["bytes"] == expected.pop("images")["training"]["bytes"]
    assert meta == {**expected, "name": "shards"}
    described = json.loads((shards / "index.json").read_text())
    assert [shard["images"] for shard in described["shards"].values()] == [3, 3, 3, 3, 1, 3, 2]
    assert (shards / "val-000001.tar").stat().st_size == described["shards"]["val-000001.tar"]["bytes"]


def test_images_have_the_order_of_the_files(shards, image_folder):
    data, files = load_data(str(shards)), load_data(str(image_folder))
    for ours, theirs in ((data.train, files.train), (data.val, files.val)):
        assert list(ours.labels) == list(theirs.labels)
        assert all(np.array_equal(ours.read(i), theirs.read(i)) for i in range(len(theirs)))


@pytest.mark.parametrize("options", [{}, {"train_subset": 9}, {"cache_images": True}, {"presize": True}], ids=str)
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_folder(shards, image_folder, options, workers):
    ours, theirs = (
        load_data(str(path), image_size=16, **options).loaders(batch_size=4, seed=3, device=CPU, workers=number)
        for path, number in ((shards, workers), (image_folder, 0))
    )
    for one, other in zip(ours, theirs, strict=True):
        assert all(same(one.epoch(epoch), other.epoch(epoch)) for epoch in (0, 1))
        assert same(one.epoch(2, start=1), other.epoch(2, start=1))


def test_each_process_has_its_part_of_every_batch(shards, image_folder):
    def parts(folder):
        loader = load_data(str(folder), image_size=16).train_loader(batch_size=4, seed=3, device=CPU, workers=0)
        whole = loader.order
        for rank in (0, 1):
            loader.order = whole.shard(rank, 2)
            yield from loader.epoch(1)

    assert same(parts(shards), parts(image_folder))


def test_shards_are_read_by_workers_that_are_not_forked(shards):
    data = load_data(str(shards), image_size=16)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (image,) = pool.map(data.train.decode, [4])
    assert torch.equal(image, data.train.decode(4))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_ends_in_the_bits_of_the_run_on_the_folder(shards, image_folder, tmp_path, workers):
    ends = []
    for name, data, number in (("files", image_folder, 0), ("shards", shards, workers)):
        config = RunConfig(
            model="convnet3", data=str(data), image_size=16, epochs=2, batch_size=4, workers=number, device="cpu",
            trivial_augment=True, mixup=0.4, seed=2,
        )  # fmt: skip
        run(config, tmp_path / name, progress=False)
        ends.append(load_checkpoint(tmp_path / name / "last.pt"))
    assert ends[0]["model"].keys() == ends[1]["model"].keys()
    assert all(torch.equal(ends[0]["model"][name], ends[1]["model"][name]) for name in ends[0]["model"])
    assert ends[0]["history"][1]["val_loss"] == ends[1]["history"][1]["val_loss"]


class Stopped(Exception):
    """What ends a run, or the writing of shards, where a test wants it."""


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_was_stopped_ends_in_the_same_bits(shards, tmp_path, monkeypatch, workers):
    from attnconv.data.files import FileLoader

    config = RunConfig(
        model="convnet3", data=str(shards), image_size=16, epochs=2, batch_size=4, workers=workers, device="cpu",
        checkpoint_steps=1,
    )  # fmt: skip
    run(config, tmp_path / "whole", progress=False)
    epoch_of = FileLoader.epoch

    def stop(self, epoch, start=0):
        for number, batch in enumerate(epoch_of(self, epoch, start), start):
            if (epoch, number) == (1, 1) and self.order.seed is not None:
                raise Stopped
            yield batch

    monkeypatch.setattr(FileLoader, "epoch", stop)
    with pytest.raises(Stopped):
        run(config, tmp_path / "run", progress=False)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "run" / "last.pt")["step_in_epoch"] == 1
    run(config, tmp_path / "run", resume=True, progress=False)
    one, other = (load_checkpoint(tmp_path / name / "last.pt")["model"] for name in ("whole", "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_webdataset_reads_ours(shards, image_folder):
    import webdataset

    pattern = f"{shards}/train-{{000000..000004}}.tar"
    samples = list(webdataset.WebDataset(pattern, shardshuffle=False).to_tuple("__key__", "jpg", "cls"))
    files = load_data(str(image_folder)).train
    assert sorted(samples) == [
        (f"{i:09}", files.read(i).tobytes(), str(label).encode()) for i, label in enumerate(files.labels)
    ]
    assert samples != sorted(samples)  # training images lie mixed, for tools that read from front to back


def write_by_webdataset(image_folder, out, *, first_key=0):
    import webdataset

    out.mkdir()
    data = load_data(str(image_folder))
    for part, source in (("train", data.train), ("val", data.val)):
        with webdataset.ShardWriter(str(out / f"{part}-%04d.tar"), maxcount=4, verbose=0) as writer:
            for i, label in enumerate(source.labels):
                content = source.read(i).tobytes()
                writer.write({"__key__": f"a.b/{first_key + i:04}", "jpg": content, "cls": label, "json": {"i": i}})
    return out


def test_shards_of_webdataset_are_read(image_folder, tmp_path):
    folder = write_by_webdataset(image_folder, tmp_path / "theirs")
    files = load_data(str(image_folder), image_size=16)
    for _ in range(2):  # the second time with the index that the first one left
        data = load_data(str(folder), image_size=16)
        assert data.classes == ("0", "1", "2")
        ours, theirs = (d.train_loader(batch_size=4, seed=3, device=CPU, workers=0) for d in (data, files))
        assert same(ours.epoch(0), theirs.epoch(0))
        assert (folder / "index.json").exists()
    assert data.train.name(5) == f"{folder}/train-0001.tar/a.b/0005.jpg"


def test_classes_may_be_named_in_the_index(image_folder, tmp_path):
    folder = write_by_webdataset(image_folder, tmp_path / "theirs")
    load_data(str(folder))
    described = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**described, "classes": ["cat", "dog", "Größe"]}))
    assert load_data(str(folder)).classes == ("cat", "dog", "Größe")


def test_shards_that_may_only_be_read_need_no_index(image_folder, tmp_path, monkeypatch):
    folder = write_by_webdataset(image_folder, tmp_path / "theirs")

    def refuse(path):
        raise InputError(f"cannot write {path}: Read-only file system")

    monkeypatch.setattr("attnconv.data.shard_index.replacing", refuse)
    assert load_data(str(folder)).num_train == 13
    assert not glob.glob(f"{folder}/index*")


def test_keys_that_two_shards_share_are_different_images(image_folder, tmp_path):
    folder = write_by_webdataset(image_folder, tmp_path / "theirs")
    other = write_by_webdataset(image_folder, tmp_path / "more")
    (other / "train-0000.tar").rename(folder / "train-0009.tar")
    data = load_data(str(folder))
    assert data.num_train == 17
    assert [data.train.name(i).split("/")[-3:] for i in (0, 1)] == [
        ["train-0000.tar", "a.b", "0000.jpg"], ["train-0009.tar", "a.b", "0000.jpg"],
    ]  # fmt: skip


def test_a_large_image_folder_with_an_index_of_its_own_is_a_folder(image_folder):
    (image_folder / "index.json").write_text("{}")
    assert load_data(str(image_folder)).num_train == 13


def test_suffixes_and_odd_files_are_carried_over(image_folder, tmp_path):
    cat = image_folder / "train" / "cat"
    (cat / "000.jpg").rename(cat / "000.JPEG")
    (cat / "001.jpg").rename(cat / "a.b c.png")  # its content is a JPEG file's
    (cat / "002.jpg").write_bytes(b"")
    data = load_data(str(make(image_folder, tmp_path / "shards")), image_size=16, skip_bad_images=True)
    names = [data.train.name(i) for i in range(5)]
    assert [name.rpartition("/")[2] for name in names] == [
        "000000000.jpg", "000000001.jpg", "000000002.jpg", "000000003.jpg", "000000004.png",
    ]  # fmt: skip
    loader = data.train_loader(batch_size=13, seed=0, device=CPU, workers=0)
    assert len(next(loader.epoch(0)).labels) == 12
    assert [name.rpartition("/")[2] for name in loader.skipped] == ["000000001.jpg"]


def test_writing_goes_on_where_it_stopped(image_folder, tmp_path, monkeypatch):
    whole = make(image_folder, tmp_path / "whole")
    written = []

    def write(file, source, numbers, webdataset, write=shard_writer._write):
        if len(written) == 4:
            file.write(b"half a shard")
            written.append(numbers)
            raise Stopped
        written.append(numbers)
        write(file, source, numbers, webdataset)

    monkeypatch.setattr(shard_writer, "_write", write)
    with pytest.raises(Stopped):
        make(image_folder, tmp_path / "shards")
    partial = tmp_path / "shards.partial"
    assert sorted(path.name for path in partial.glob("*.t*")) == [f"train-00000{i}.tar" for i in range(4)]
    assert not (tmp_path / "shards").exists()
    make(image_folder, tmp_path / "shards")
    assert len(written) == 5 + 3
    assert not partial.exists()
    for path in whole.iterdir():
        assert (tmp_path / "shards" / path.name).read_bytes() == path.read_bytes()


def test_other_images_do_not_go_on(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_writer, "make_index", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make(image_folder, tmp_path / "shards")
    monkeypatch.undo()
    (image_folder / "train" / "cat" / "000.jpg").unlink()
    line = r"/shards.partial holds the beginning of other shards, or of these before images changed: delete it$"
    with pytest.raises(InputError, match=line):
        make(image_folder, tmp_path / "shards")


def test_nothing_is_overwritten(shards, image_folder, tmp_path):
    before = (shards / "index.json").read_bytes()
    with pytest.raises(InputError, match="shards is there already, and shards overwrite nothing; give another --out"):
        make(image_folder, shards)
    (tmp_path / "empty").mkdir()
    make(image_folder, tmp_path / "empty")
    assert (tmp_path / "empty" / "index.json").read_bytes() == before


def test_two_processes_do_not_write_the_same_shards(image_folder, tmp_path):
    from filelock import FileLock

    with (
        FileLock(tmp_path / "shards.partial.lock"),
        pytest.raises(InputError, match=r"another process writes .*shards\.partial$"),
    ):
        make(image_folder, tmp_path / "shards")


def test_a_file_that_vanishes_is_named(image_folder, tmp_path):
    data = load_data(str(image_folder))
    gone = image_folder / "val" / "dog" / "301.jpg"
    gone.unlink()
    with pytest.raises(InputError, match=f"^cannot read image {gone}: No such file or directory$"):
        write_shards(data, tmp_path / "shards", images_per_shard=3)


def test_a_set_without_files_has_no_shards(tmp_path):
    with pytest.raises(InputError, match="shards are made of image files, and 'digits' has none"):
        write_shards(load_data("digits"), tmp_path / "shards", images_per_shard=3)
    assert list(tmp_path.iterdir()) == []


def test_writing_needs_webdataset_and_reading_does_not(shards, image_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)  # as if it were not installed
    with pytest.raises(MissingExtraError, match=r"^this needs webdataset: pip install 'attnconv\[shards\]'$"):
        make(image_folder, tmp_path / "more")
    code = (
        "import sys; from attnconv.data import load_data; "
        f"load_data({str(shards)!r}).train.decode(0); print('webdataset' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
