"""Folders of images: the layout expected, and every way of missing it."""

import shutil

import pytest
import torch
from torchvision.transforms import v2

from attnconv.checks import InputError
from attnconv.data import decode_image, load_data


def test_a_folder_becomes_data(image_folder):
    data = load_data(str(image_folder))
    meta = data.meta()
    images = meta.pop("images")
    assert (images["training"]["count"], images["validation"]["count"]) == (13, 5)
    assert meta == {
        "name": "pets",
        "classes": ["cat", "dog", "newt"],
        "channels": 3,
        "image_size": [128, 128],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "resize_ratio": 8 / 7,
    }
    assert (data.num_train, data.num_val) == (13, 5)
    assert data.train.labels == (0,) * 5 + (1,) * 6 + (2,) * 2
    assert data.val.labels == (1,) * 3 + (2,) * 2  # numbered as in train, though val lacks a class
    assert [path.rsplit("/", 2)[1:] for path in data.val.paths[2:4]] == [["dog", "302.jpg"], ["newt", "400.jpg"]]


def test_hidden_and_other_files_are_ignored(image_folder):
    cat = image_folder / "train" / "cat"
    (cat / ".hidden.jpg").write_text("")
    (cat / "notes.txt").write_text("")
    (image_folder / "train" / ".ipynb_checkpoints").mkdir()
    (image_folder / "train" / "README.md").write_text("")
    data = load_data(str(image_folder))
    assert (data.num_train, data.passed_over) == (13, {"hidden or of the system": 1, "no image": 2})


def test_a_subset_is_the_same_for_every_load_and_keeps_pairs(image_folder):
    whole = load_data(str(image_folder))
    subset, again = (load_data(str(image_folder), train_subset=6) for _ in range(2))
    pairs = list(zip(subset.train.paths, subset.train.labels, strict=True))
    assert len(pairs) == len(set(pairs)) == 6
    assert set(pairs) < set(zip(whole.train.paths, whole.train.labels, strict=True))
    assert subset.train.paths == again.train.paths
    assert subset.num_val == whole.num_val


def remove(*parts):
    return lambda folder: shutil.rmtree(folder.joinpath(*parts))


def empty(*parts):
    def change(folder):
        shutil.rmtree(folder.joinpath(*parts))
        folder.joinpath(*parts).mkdir()

    return change


def add_class(folder):
    shutil.copytree(folder / "val" / "dog", folder / "val" / "wolf")
    shutil.copytree(folder / "val" / "dog", folder / "val" / "fox")


def into_tar_files(folder):
    for part in ("train", "val"):
        shutil.make_archive(str(folder / f"{part}-000000"), "tar", folder / part)
        shutil.rmtree(folder / part)


def empty_all(part):
    def change(folder):
        for path in folder.joinpath(part).glob("*/*"):
            path.unlink()

    return change


def deeper(*parts):
    """All of a folder in a folder of the same name in it."""

    def change(folder):
        whole = folder.joinpath(*parts)
        whole.rename(folder.parent / "moved")
        whole.mkdir()
        (folder.parent / "moved").rename(whole / whole.name)

    return change


def only_notes(folder):
    empty("train", "dog")(folder)
    (folder / "train" / "dog" / "notes.txt").write_text("a dog")


DEEP = (
    "folder {{folder}}/{part} contains only {inner}/, which contains no image and {count}: if these are the classes, "
    "they lie one level too deep; move them up"
)
LAYOUT = "; expected {folder}/train/<class>/* and {folder}/val/<class>/*"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("train"), "folder {folder} has no train/" + LAYOUT),
        (
            remove("val"),
            "folder {folder} has no val/" + LAYOUT + ", or --val-split 0.2 to hold out a fifth of each class",
        ),
        (
            into_tar_files,
            "folder {folder} holds tar files, which are not read: docs/data.md shows how webdataset makes a folder of"
            " images of them",
        ),
        (empty("train"), "folder {folder}/train holds no class folder" + LAYOUT),
        (empty("val"), "folder {folder}/val holds no class folder" + LAYOUT),
        (
            empty("train", "dog"),
            "class folder {folder}/train/dog holds no image",
        ),
        (empty_all("val"), "folder {folder}/val holds no image"),
        (deeper("train"), DEEP.format(part="train", inner="train", count="3 folders")),
        (deeper("val"), DEEP.format(part="val", inner="val", count="2 folders")),
        (deeper(), "folder {folder} has no train/, and {folder}/pets has: it lies one level deeper, give that"),
        (only_notes, "class folder {folder}/train/dog holds no image; 1 file passed over: 1 no image"),
        (add_class, "{folder}/val has classes that train lacks: fox, wolf"),
    ],
)
def test_another_layout(image_folder, change, message):
    change(image_folder)
    with pytest.raises(InputError) as caught:
        load_data(str(image_folder))
    assert str(caught.value) == message.format(folder=image_folder)


@pytest.mark.parametrize(("presize", "shorter"), [(False, 73), (True, 96)])
def test_validation_images_at_64_pixels(image_folder, presize, shorter):
    """8/7 of the side, or 32 pixels more than it, and then the centre."""
    data = load_data(str(image_folder), image_size=64, presize=presize)
    _, val = data.loaders(batch_size=1, seed=0, device=torch.device("cpu"), workers=0)
    usual = v2.Compose([v2.Resize(shorter, antialias=True), v2.CenterCrop(64)])
    expected = usual(decode_image(data.val.paths[0], 3))
    assert torch.equal(next(val.epoch(0)).images[0], val.normalise(expected))
    assert round(64 * data.meta()["resize_ratio"]) == shorter
