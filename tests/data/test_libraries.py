"""Data sets of torchvision and of Hugging Face's datasets; nothing is downloaded."""

import io
import os

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from test_regular_file import KINDS, deadline, sparse  # noqa: F401

from attnconv.checks import InputError
from attnconv.data import load_data
from attnconv.data.libraries import Rows

CPU = torch.device("cpu")


def picture(number):
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (9, 13, 3), dtype=np.uint8))


# torchvision


class WithTrain(torchvision.datasets.VisionDataset):
    """As CIFAR is; ``parts`` are the values that its option takes."""

    classes = ("ant", "bee", "cow")

    def __init__(self, root, train=True, transform=None, download=False):
        super().__init__(root)
        assert download
        print("Files already downloaded and verified")
        self.targets = [i % 3 for i in range(12 if train else 6)]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return picture(index), self.targets[index]


class WithSplit(WithTrain):
    parts = ("train", "extra", "test")

    def __init__(self, root, split="train", download=False):
        torchvision.datasets.utils.verify_str_arg(split, "split", self.parts)
        super().__init__(root, split in ("train", "trainval"), download=download)


class Trainval(WithSplit):
    parts = ("trainval", "test")


class Whole(WithTrain):
    def __init__(self, root, download=False):
        super().__init__(root, download=download)


@pytest.fixture(params=[WithTrain, WithSplit, Trainval, Whole], ids=lambda kind: kind.__name__)
def kind(request, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "SVHN", request.param)
    return request.param


def test_a_set_of_torchvision_in_the_part_it_calls_training(kind, tmp_path, capsys):
    split = {"val_split": 0.5} if kind is Whole else {}
    data = load_data("torchvision:SVHN", data_dir=tmp_path, **split)
    assert (data.name, data.classes) == ("torchvision:SVHN", ("ant", "bee", "cow"))
    assert (data.num_train, data.num_val) == ((6, 6) if kind is Whole else (12, 6))
    assert data.image_size == (9, 13)
    assert capsys.readouterr().out == ""


def test_made_up_images_of_torchvision():
    data = load_data("torchvision:FakeData", val_split=0.1, train_subset=40, image_size=(24, 32))
    assert (data.num_train, len(data.classes), data.image_size) == (40, 10, (24, 32))
    train, _ = data.loaders(batch_size=20, seed=0, device=CPU, workers=0)
    assert next(train.epoch(0)).images.shape == (20, 3, 24, 32)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SVHM", "unknown data set of torchvision 'SVHM'; nearest: 'SVHN'"),
        ("svhn", "unknown data set of torchvision 'svhn'; nearest: 'SVHN'"),
        ("os.system", "unknown data set of torchvision 'os.system'"),
        (
            "CocoDetection",
            "torchvision:CocoDetection cannot be made by its name alone: .*annFile'; make it in",
        ),
    ],
)
def test_what_torchvision_has_not(name, message):
    with pytest.raises(InputError, match=message):
        load_data(f"torchvision:{name}")


def test_a_set_that_cannot_be_read(monkeypatch, tmp_path):
    def fail(self, root, train=True, download=False):
        raise RuntimeError("Dataset not found\nor corrupted")

    monkeypatch.setattr(WithTrain, "__init__", fail)
    monkeypatch.setattr(torchvision.datasets, "SVHN", WithTrain)
    with pytest.raises(
        InputError, match=f"cannot read or download torchvision:SVHN in {tmp_path}: Dataset not found or corrupted; if"
    ):
        load_data("torchvision:SVHN", data_dir=tmp_path)


# Hugging Face


@pytest.fixture
def library():
    return pytest.importorskip("datasets")


def rows(library, count, label, names=("cat", "dog")):
    kind = library.ClassLabel(names=list(names)) if names else library.Value("string")
    features = library.Features({"image": library.Image(), label: kind})
    values = [i % 2 if names else ("cat", "dog")[i % 2] for i in range(count)]
    return library.Dataset.from_dict({"image": [picture(i) for i in range(count)], label: values}, features=features)


@pytest.mark.parametrize("prefix", ["", "hf:"])
@pytest.mark.parametrize(("label", "names"), [("label", ("cat", "dog")), ("labels", ("cat", "dog")), ("label", ())])
def test_a_saved_folder(library, tmp_path, prefix, label, names):
    parts = {"train": rows(library, 8, label, names), "validation": rows(library, 6, label, names)}
    library.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    data = load_data(f"{prefix}{tmp_path / 'saved'}")
    assert (data.name, data.classes, data.num_train, data.num_val) == ("saved", ("cat", "dog"), 8, 6)
    _, val = data.loaders(batch_size=6, seed=0, device=CPU, workers=0)
    batch = next(val.epoch(0))
    assert batch.labels.tolist() == [0, 1] * 3
    assert torch.equal(batch.images[1], val.normalise(torch.from_numpy(np.array(picture(1))).permute(2, 0, 1)))


def test_a_saved_folder_of_one_part(library, tmp_path):
    rows(library, 8, "label").save_to_disk(tmp_path / "saved")
    data = load_data(str(tmp_path / "saved"), val_split=0.5)
    assert (data.num_train, data.num_val) == (4, 4)


def test_a_folder_of_data_files(library, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    (tmp_path / "repository" / "data").mkdir(parents=True)
    for part, count in (("train", 8), ("test", 4)):
        rows(library, count, "label").to_parquet(tmp_path / "repository" / "data" / f"{part}-00000-of-00001.parquet")
    data = load_data(f"hf:{tmp_path / 'repository'}", data_dir=tmp_path / "cache")
    assert (data.num_train, data.num_val, data.classes) == (8, 4, ("cat", "dog"))


def test_other_columns_are_named(library, tmp_path):
    library.DatasetDict({"train": rows(library, 4, "breed", ())}).save_to_disk(tmp_path / "saved")
    with pytest.raises(InputError, match="must have a column of images and one called 'label'; it has image, breed:"):
        load_data(str(tmp_path / "saved"))


def test_other_parts_are_named(library, tmp_path):
    library.DatasetDict({"a": rows(library, 4, "label")}).save_to_disk(tmp_path / "saved")
    with pytest.raises(InputError, match="has no split 'train'; it has a"):
        load_data(str(tmp_path / "saved"))


def test_the_hub_cannot_be_reached(library, monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="cannot load hf:nobody/nothing: "):
        load_data("hf:nobody/nothing", data_dir=tmp_path)


@pytest.mark.parametrize(("make", "what"), [*KINDS, (sparse, "larger than 1,024 MiB")])
def test_a_row_may_name_a_regular_file_only(library, tmp_path, make, what):
    file = tmp_path / "x.png"
    kind = library.Features({"image": library.Image(decode=False), "label": library.Value("int64")})
    images = library.Dataset.from_dict({"image": [{"bytes": None, "path": str(file)}], "label": [0]}, features=kind)
    found = Rows(images, "image", "label", None)
    picture(1).save(file)
    assert np.array_equal(found[0][0], picture(1))
    file.unlink()
    make(file)
    with pytest.raises(InputError, match=f"x.png is {what}"):
        found[0]


def test_an_image_that_would_start_a_program_is_not_opened(library, tmp_path, ghostscript):
    content = io.BytesIO()
    picture(0).save(content, "EPS")
    kind = library.Features({"image": library.Image(), "label": library.ClassLabel(names=["cat"])})
    images = [{"bytes": content.getvalue(), "path": None}] * 2
    library.DatasetDict(
        {
            part: library.Dataset.from_dict({"image": images, "label": [0, 0]}, features=kind)
            for part in ("train", "test")
        }
    ).save_to_disk(tmp_path / "saved")
    with pytest.raises(
        InputError, match="cannot read image 0 of the training images of 'saved': cannot identify image"
    ):
        load_data(str(tmp_path / "saved"))
    assert not ghostscript.exists()


def encoded(number, form):
    content = io.BytesIO()
    picture(number).save(content, form)
    return {"bytes": content.getvalue(), "path": None}


def saved_with(library, folder, column, kind, value):
    """A saved data set with the usual columns and another one."""
    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=["cat"]), column: kind})
    rows = {"image": [encoded(n, "PNG") for n in range(2)], "label": [0, 0], column: [value, value]}
    part = library.Dataset.from_dict(rows, features=features)
    library.DatasetDict({"train": part, "test": part}).save_to_disk(folder)


@pytest.mark.parametrize("nested", [False, True])
def test_images_of_other_columns_are_not_opened(library, tmp_path, nested, ghostscript):
    kind, value = library.Image(), encoded(0, "EPS")
    saved_with(library, tmp_path / "saved", "thumb", {"a": kind} if nested else kind, {"a": value} if nested else value)
    data = load_data(str(tmp_path / "saved"), image_size=16)
    train, _ = data.loaders(batch_size=2, seed=0, device=CPU, workers=0)
    assert next(train.epoch(0)).images.shape == (2, 3, 16, 16)
    assert not ghostscript.exists()


def test_images_within_a_column_are_no_images(library, tmp_path):
    features = library.Features({"image": {"a": library.Image()}, "label": library.ClassLabel(names=["cat"])})
    part = library.Dataset.from_dict({"image": [{"a": encoded(0, "EPS")}], "label": [0]}, features=features)
    library.DatasetDict({"train": part, "test": part}).save_to_disk(tmp_path / "saved")
    with pytest.raises(InputError, match="must have a column of images and one called 'label'; it has image, label"):
        load_data(str(tmp_path / "saved"))


@pytest.mark.parametrize("image", ["image", "label"])
def test_images_are_no_labels(library, tmp_path, ghostscript, image):
    """Those of "label" would be opened in every format; the second case has no other column."""
    features = library.Features({name: library.Image() for name in {image, "label"}})
    part = library.Dataset.from_dict({name: [encoded(0, "EPS")] for name in features}, features=features)
    library.DatasetDict({"train": part, "test": part}).save_to_disk(tmp_path / "saved")
    with pytest.raises(InputError, match="must have a column of images and one called 'label'; it has "):
        load_data(str(tmp_path / "saved"))
    assert not ghostscript.exists()


def test_a_link_to_nothing_beside_a_saved_folder_is_passed_over(library, tmp_path):
    saved_with(library, tmp_path / "saved", "note", library.Value("string"), "a")
    (tmp_path / "saved" / ".#lock").symlink_to(tmp_path / "gone")
    assert load_data(str(tmp_path / "saved")).classes == ("cat",)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a FIFO")
def test_a_fifo_in_a_saved_folder_is_not_waited_for(library, tmp_path):
    saved_with(library, tmp_path / "saved", "note", library.Value("string"), "a")
    (file,) = (tmp_path / "saved" / "train").glob("*.arrow")
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(InputError, match=r"\.arrow is a FIFO"):
        load_data(str(tmp_path / "saved"))


@pytest.mark.parametrize("name", [name for name in torchvision.datasets.__all__ if name.startswith("LSUN")])
def test_a_set_that_unpickles_a_file_is_left_out(tmp_path, name):
    with pytest.raises(InputError, match=f"unknown data set of torchvision '{name}'"):
        load_data(f"torchvision:{name}", data_dir=tmp_path)
