"""Names, folders and options; digits, which need no download."""

import subprocess
import sys

import pytest
import torch

from attnconv.checks import InputError, InputTypeError
from attnconv.data import DATA_SETS, decode_image, load_data, prepare_image
from attnconv.data.tensors import mean_and_std

CPU = torch.device("cpu")


def test_the_known_names():
    assert (
        *("digits", "cifar10", "cifar100", "mnist", "fashion-mnist"),
        *("imagenette", "imagewoof", "imagenette-old", "imagewoof-old"),
        *("far-pairs", "textures", "far-context"),
    ) == DATA_SETS


def test_digits():
    data = load_data("digits")
    assert (data.name, data.channels, data.image_size) == ("digits", 1, (8, 8))
    assert data.classes == tuple("0123456789")
    assert (data.num_train, data.num_val) == (1437, 360)
    assert (data.train.images.shape, data.train.images.dtype) == ((1437, 1, 8, 8), torch.uint8)
    assert data.train.images.unique().tolist() == [round(value * 255 / 16) for value in range(17)]
    assert (data.train.pad, data.train.flip, data.val.pad) == (1, False, 0)


def test_digits_are_split_alike_in_every_class_and_every_time():
    data, again = load_data("digits"), load_data("digits")
    counts = [part.labels.bincount().double() for part in (data.train, data.val)]
    assert ((counts[1] / (counts[0] + counts[1]) - 0.2).abs() < 0.01).all()
    assert torch.equal(data.val.images, again.val.images)


def test_mean_and_std_are_those_of_the_training_images():
    data = load_data("digits")
    values = data.train.images.double() / 255
    assert data.mean == pytest.approx((values.mean().item(),), rel=1e-12)
    assert data.std == pytest.approx((values.std(correction=0).item(),), rel=1e-12)


def test_mean_and_std_channel_by_channel():
    images = torch.randint(0, 256, (5, 3, 4, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = mean_and_std(images)
    values = images.double().transpose(0, 1).flatten(1) / 255
    assert mean == pytest.approx(values.mean(1).tolist(), rel=1e-12)
    assert std == pytest.approx(values.std(1, correction=0).tolist(), rel=1e-12)


def test_images_of_one_colour_can_be_normalised():
    assert mean_and_std(torch.full((2, 1, 3, 4), 51, dtype=torch.uint8)) == ((pytest.approx(0.2),), (1.0,))


@pytest.mark.parametrize(("image_size", "pad"), [(4, 1), (8, 1), (20, 2), (32, 4)])
def test_another_image_size(image_size, pad):
    data = load_data("digits", image_size=image_size)
    assert data.image_size == (image_size, image_size)
    assert data.train.images.shape == (1437, 1, image_size, image_size)
    assert (data.val.images.dtype, data.train.pad) == (torch.uint8, pad)


def test_predict_sees_what_validation_sees():
    own, larger = load_data("digits"), load_data("digits", image_size=20)
    _, val = larger.loaders(batch_size=3, seed=0, device=CPU, workers=0)
    expected = torch.stack([prepare_image(image, larger.meta()) for image in own.val.images[:3]])
    assert torch.equal(next(val.epoch(0)).images, expected)


def test_a_subset_is_fixed():
    whole = load_data("digits")
    subset, again = (load_data("digits", train_subset=50) for _ in range(2))
    assert (subset.num_train, subset.num_val, subset.mean) == (50, 360, whole.mean)
    assert torch.equal(subset.train.images, again.train.images)
    assert not torch.equal(subset.train.images, whole.train.images[:50])
    assert (subset.train.pad, subset.train.flip) == (whole.train.pad, whole.train.flip)


def test_a_subset_may_be_the_whole():
    assert torch.equal(load_data("digits", train_subset=1437).train.images, load_data("digits").train.images)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("cifr10", {}, InputError, "'cifr10' is neither a data set nor an existing folder; nearest: 'cifar10'"),
        (
            "/no/such/place",
            {},
            InputError,
            "'/no/such/place' is neither a data set nor an existing folder;"
            " known: cifar10, cifar100, digits, far-context, far-pairs, fashion-mnist, imagenette, imagenette-old,"
            " imagewoof, imagewoof-old, mnist, textures",
        ),
        (
            "digits",
            {"train_subset": 1438},
            InputError,
            "train_subset must be at most 1437, the training images of 'digits', got 1438",
        ),
        ("digits", {"train_subset": 0}, InputError, "train_subset must be at least 1, got 0"),
        ("digits", {"image_size": 0}, InputError, "image_size must be at least 1, got 0"),
        ("digits", {"image_size": 8.5}, InputTypeError, "image_size must be an integer, got 8.5"),
    ],
)
def test_what_is_refused(name, options, error, message):
    with pytest.raises(error) as caught:
        load_data(name, **options)
    assert str(caught.value) == message


def test_a_folder_of_a_known_name_is_reached_by_its_path(image_folder, monkeypatch):
    image_folder.rename(image_folder.with_name("digits"))
    monkeypatch.chdir(image_folder.parent)
    assert load_data("./digits").classes == ("cat", "dog", "newt")
    assert load_data("digits").classes == tuple("0123456789")


def test_a_home_folder_is_expanded(image_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(image_folder.parent))
    assert load_data("~/pets").num_train == 13


def test_the_import_is_cheap_and_plain_digits_need_no_torchvision():
    code = (
        "import sys, attnconv.data, torch; print({'torchvision', 'PIL', 'sklearn'} & set(sys.modules))\n"
        "sys.modules['torchvision'] = None\n"
        "data = attnconv.data.load_data('digits')\n"
        "train, _ = data.loaders(batch_size=4, seed=0, device=torch.device('cpu'), workers=0)\n"
        "print(next(train.epoch(0)).images.shape[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n4\n"


def test_decode_image_is_for_the_same_channels(tmp_path):
    from PIL import Image

    data = load_data("digits")
    Image.new("RGB", (30, 40), (9, 9, 9)).save(tmp_path / "a.png")
    assert prepare_image(decode_image(tmp_path / "a.png", data.channels), data.meta()).shape == (1, 8, 8)
