"""Any map-style Dataset of (image, label): what is made of it, what is refused, and exact resume."""

import random
import types
from importlib import metadata

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset

from attnconv.checks import InputError, InputTypeError
from attnconv.data import ForeignLoader, data_of_datasets, load_data, prepare_image, register_dataset
from attnconv.data import load as module
from attnconv.data.files import FileOptions
from attnconv.recipes import run
from attnconv.train.config import RunConfig

CPU = torch.device("cpu")


def pixels(index, rows=9, columns=13):
    return np.random.default_rng(index).integers(0, 256, (rows, columns, 3), dtype=np.uint8)


KINDS = {
    "pillow": lambda i: Image.fromarray(pixels(i)),
    "grey": lambda i: Image.fromarray(pixels(i)[..., 0]),
    "tensor": lambda i: torch.from_numpy(pixels(i)).permute(2, 0, 1),
    "array": pixels,
    "flat": lambda i: pixels(i)[..., 0],
    "float": lambda i: torch.from_numpy(pixels(i)).permute(2, 0, 1) / 255,
    "sizes": lambda i: Image.fromarray(pixels(i, rows=9 + i)),
}


class Pictures:
    """``count`` images in three classes, as ``make`` makes them."""

    def __init__(self, count=10, make=KINDS["pillow"], label=lambda i: i % 3, **attributes):
        self.count, self.make, self.label = count, make, label
        self.__dict__.update(attributes)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.make(index), self.label(index)


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(module, "_REGISTERED", {})


def loaders(data, batch_size=4, seed=0, workers=0, **options):
    return data.loaders(batch_size=batch_size, seed=seed, device=CPU, workers=workers, **options)


@pytest.mark.parametrize(
    ("kind", "channels", "size", "ratio"),
    [
        ("pillow", 3, (9, 13), 1.0),
        ("grey", 1, (9, 13), 1.0),
        ("tensor", 3, (9, 13), 1.0),
        ("array", 3, (9, 13), 1.0),
        ("flat", 1, (9, 13), 1.0),
        ("float", 3, (9, 13), 1.0),
        ("sizes", 3, (128, 128), 8 / 7),
    ],
)
def test_what_images_may_be(kind, channels, size, ratio):
    data = data_of_datasets("mine", Pictures(make=KINDS[kind]), Pictures(6, make=KINDS[kind]))
    assert (data.channels, data.image_size, data.resize_ratio) == (channels, size, ratio)
    assert (data.num_train, data.num_val, data.classes) == (10, 6, ("0", "1", "2"))
    train, val = loaders(data)
    assert next(train.epoch(0)).images.shape == (4, channels, *size)
    assert [batch.labels.tolist() for batch in val.epoch(0)] == [[0, 1, 2, 0], [1, 2]]


@pytest.mark.parametrize("kind", ["pillow", "tensor", "array"])
def test_validation_images_are_the_pixels(kind):
    data = data_of_datasets("mine", Pictures(make=KINDS[kind]), Pictures(6, make=KINDS[kind]))
    _, val = loaders(data)
    expected = prepare_image(torch.from_numpy(pixels(0)).permute(2, 0, 1), data.meta())
    assert torch.equal(next(val.epoch(0)).images[0], expected)


def test_floats_are_taken_as_prepared_and_prediction_says_so():
    data = data_of_datasets("mine", Pictures(make=KINDS["float"]), Pictures(6, make=KINDS["float"]))
    note = "'mine' gives float tensors: they are taken as preprocessed, neither augmented nor normalised"
    assert data.notes == (note,)
    train, val = loaders(data)
    assert torch.equal(next(val.epoch(0)).images[0], KINDS["float"](0))
    batch, numbers = next(train.epoch(3)), train.order.batches(3)[0]
    assert torch.equal(batch.images, torch.stack([KINDS["float"](int(i)) for i in numbers]))
    with pytest.raises(InputError, match="trained on float tensors that the data set 'mine' preprocessed itself"):
        prepare_image(torch.zeros(3, 9, 13, dtype=torch.uint8), data.meta())


def test_grey_among_colours_becomes_colour():
    data = data_of_datasets("mine", Pictures(make=lambda i: KINDS["grey" if i % 2 else "pillow"](i)), Pictures(2))
    assert data.channels == 3
    assert next(loaders(data)[0].epoch(0)).images.shape[1] == 3


def test_classes_come_from_the_dataset_or_are_given():
    named = Pictures(classes=["ant", "bee", "cow", "dog"])
    assert data_of_datasets("mine", named, named).classes == ("ant", "bee", "cow", "dog")
    assert data_of_datasets("mine", named, named, classes=["x", "y", "z"]).classes == ("x", "y", "z")
    part = Subset(named, [0, 3, 6])
    assert data_of_datasets("mine", part, named).classes == ("ant", "bee", "cow", "dog")


def random_pixel(index):
    """An image with a pixel drawn by each of the generators that people's transforms draw from."""
    image = pixels(index)
    image[0, 0, 0] = random.randrange(256)
    image[0, 1, 0] = np.random.randint(256)  # noqa: NPY002
    image[0, 2, 0] = torch.randint(256, ()).item()
    return image


@pytest.mark.parametrize("workers", [0, 2])
def test_the_rest_of_an_epoch_is_the_same_wherever_it_begins(workers):
    """Also what the Dataset's own transforms draw."""
    data = data_of_datasets("mine", Pictures(20, make=random_pixel), Pictures(6, make=random_pixel))
    train, val = loaders(data, workers=workers)
    whole = list(train.epoch(2))
    other, _ = loaders(data, workers=2 - workers)
    assert [torch.equal(a.images, b.images) for a, b in zip(whole[3:], other.epoch(2, 3), strict=True)] == [True] * 2
    assert not torch.equal(next(other.epoch(3)).images, whole[0].images)
    assert torch.equal(next(val.epoch(0)).images, next(val.epoch(1)).images)


def test_what_is_drawn_leaves_the_callers_generators_alone(global_random_state):
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    next(loaders(data_of_datasets("mine", Pictures(make=random_pixel), Pictures()))[0].epoch(0))
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), global_random_state)


def test_a_share_of_each_class_is_held_back():
    options = FileOptions(val_split=0.25, seed=5)
    data = data_of_datasets("mine", Pictures(24), options=options)
    assert sorted(data.val.labels) == [0, 0, 1, 1, 2, 2]
    assert set(data.val.indices).isdisjoint(data.train.indices)
    again, other = (data_of_datasets("mine", Pictures(24), options=FileOptions(val_split=0.25, seed=s)) for s in (5, 6))
    assert again.val.indices == data.val.indices != other.val.indices


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        (iter([]), Pictures(), "training images of 'mine' must be a map-style Dataset, .* got list_iterator"),
        (Pictures(), 3, "validation images of 'mine' must be a map-style Dataset, .* got int"),
        (Pictures(0), Pictures(), "there are none of the training images of 'mine'"),
        (Pictures(make=lambda i: "x"), Pictures(), "image 0 of the training images of 'mine' is 'x'; it must be"),
        (Pictures(make=lambda i: torch.zeros(4, 9, 13, dtype=torch.uint8)), Pictures(), "has 4 channels"),
        (Pictures(make=lambda i: torch.zeros(3, 9, 13, dtype=torch.int64)), Pictures(), r"\(3, 9, 13\) torch.int64"),
        (Pictures(label=lambda i: "cat"), Pictures(), "image 0 of the training images of 'mine' has the label 'cat'"),
        (Pictures(label=lambda i: 0.5), Pictures(), "has the label 0.5"),
        (Pictures(make=lambda i: 1 / 0), Pictures(), "of 'mine' raised ZeroDivisionError: division by zero"),
        (Pictures(), None, "'mine' has no validation images: --val-split 0.2 holds out a fifth of each class"),
        (Pictures(targets=[0, 1, 7] * 4, classes=["a", "b"]), Pictures(), "have the label 7: it must be 0 to 1"),
    ],
)
def test_what_is_refused_before_training(train, val, message):
    with pytest.raises(InputError, match=message):
        data_of_datasets("mine", train, val)


class Single(Pictures):
    def __getitem__(self, index):
        return self.make(index)


def test_an_item_must_be_a_pair():
    with pytest.raises(InputError, match=r"is a Image; it must be \(image, label\)"):
        data_of_datasets("mine", Single(), Single())


def late(make, label=lambda i: i % 3):
    """Faults in an image that is not looked at before training."""
    return Pictures(100, make=lambda i: make(i) if i == 1 else KINDS["pillow"](i), label=label, classes=["a", "b", "c"])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (late(lambda i: None), "image 1 of the training images of 'mine' is None; it must be"),
        (late(lambda i: [][0]), "image 1 of the training images of 'mine' raised IndexError: list index out of range"),
        (late(KINDS["float"]), "image 1 of the training images of 'mine' has torch.float32 pixels"),
        (late(KINDS["pillow"], lambda i: 3 if i == 1 else 0), "'mine' has the label 3: it must be 0 to 2"),
    ],
)
def test_what_is_refused_in_training_whatever_may_be_skipped(dataset, message, workers):
    data = data_of_datasets("mine", dataset, Pictures(), options=FileOptions(skip_bad_images=True))
    with pytest.raises(InputError, match=message):
        list(loaders(data, workers=workers)[0].epoch(0))


def unreadable(index):
    raise OSError("disk on fire")


def test_images_that_cannot_be_read_are_left_out_and_counted():
    strict = data_of_datasets("mine", late(unreadable), Pictures())
    with pytest.raises(InputError, match=r"cannot read image 1 of .* disk on fire; --skip-bad-images leaves such"):
        list(loaders(strict)[0].epoch(0))
    lenient = data_of_datasets("mine", late(unreadable), Pictures(), options=FileOptions(skip_bad_images=True))
    train, _ = loaders(lenient)
    assert sum(len(batch.labels) for batch in train.epoch(0)) == 99
    assert train.skipped == ["image 1 of the training images of 'mine'"]


def test_float_tensors_are_of_one_shape_and_one_size():
    mixed = Pictures(100, make=lambda i: torch.zeros(3, 9, 13 + (i == 1)), classes=["a", "b", "c"])
    with pytest.raises(InputError, match=r"image 1 .* is \(3, 9, 14\), and the first image \(3, 9, 13\)"):
        list(loaders(data_of_datasets("mine", mixed, mixed))[0].epoch(0))
    with pytest.raises(InputError, match=r"float tensors of 9 x 13 pixels, .*: leave image_size out, got 8 x 8"):
        data_of_datasets("mine", Pictures(make=KINDS["float"]), Pictures(), image_size=8)


# Registered ones


def test_a_registered_set_trains_resumes_and_is_read_back(registry, tmp_path):
    given = []

    def load(data_dir):
        given.append(data_dir)
        return Pictures(24), Pictures(9), ["ant", "bee", "cow"]

    register_dataset("zoo", load)
    settings = {"model": "convnet3", "data": "zoo", "data_dir": str(tmp_path), "epochs": 2, "batch_size": 8}
    settings |= {"device": "cpu", "workers": 0, "image_size": 16, "checkpoint_steps": 1}
    result = run(RunConfig(**settings), tmp_path / "run", progress=False)
    assert given == [tmp_path]
    stopped = Pictures(24, make=lambda i: KINDS["pillow"](i))
    register_dataset("zoo2", lambda data_dir: (stopped, Pictures(9), ["ant", "bee", "cow"]))
    count = iter(range(10_000))

    def interrupted(index):
        if next(count) == 40:
            raise KeyboardInterrupt
        return KINDS["pillow"](index)

    stopped.make = interrupted
    config = RunConfig(**settings | {"data": "zoo2"})
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "other", progress=False)
    stopped.make = KINDS["pillow"]
    again = run(config, tmp_path / "other", resume=True, progress=False)
    assert (again["loss"], again["top1"]) == (result["loss"], result["top1"])


@pytest.mark.parametrize(
    ("name", "load", "message"),
    [
        ("", print, "name of a data set must be of letters, digits and ._-, got ''"),
        ("a/b", print, "name of a data set must be of letters"),
        ("digits", print, "there is a data set 'digits' already; give yours another name"),
        ("zoo", 3, "load of data set 'zoo' must be a function, got int"),
    ],
)
def test_what_cannot_be_registered(registry, name, load, message):
    with pytest.raises(InputError, match=message):
        register_dataset(name, load)


def test_a_name_is_registered_once(registry):
    register_dataset("zoo", failing)
    again = types.FunctionType(failing.__code__, globals())
    again.__module__, again.__qualname__ = failing.__module__, failing.__qualname__
    register_dataset("zoo", again)  # its module loaded anew
    register_dataset("garden", one := lambda data_dir: 1)
    register_dataset("garden", one)
    for name, load in (("zoo", len), ("garden", lambda data_dir: 1)):
        with pytest.raises(InputError, match=f"there is a data set '{name}' already"):
            register_dataset(name, load)


def failing(data_dir):
    raise RuntimeError("no such disk\nand more")


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (lambda data_dir: 3, "load of data set 'zoo' must return training and validation images, .* got int"),
        (lambda data_dir: (1,), "load of data set 'zoo' must return training and validation images, .* got tuple"),
        (failing, "load of data set 'zoo' failed: RuntimeError: no such disk$"),
        (lambda: 3, r"load of data set 'zoo' failed: TypeError: .*unexpected keyword argument 'data_dir'"),
    ],
)
def test_what_load_must_return(registry, load, message):
    register_dataset("zoo", load)
    with pytest.raises(InputError, match=message):
        load_data("zoo")


def test_the_nearest_name_may_be_a_registered_one(registry):
    register_dataset("my-zoo", print)
    with pytest.raises(InputError, match="'MyZoo' is neither a data set nor an existing folder; nearest: 'my-zoo'"):
        load_data("MyZoo")


# Anybody's loaders


class Tensors(Pictures):
    def __getitem__(self, index):
        return torch.full((1, 2, 3), float(index)) + 0.5 * torch.rand(()), index


def numbers_of(batches):
    return [batch[1].tolist() for batch in batches]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_foreign_loaders_order_is_that_of_its_epoch(workers):
    foreign = ForeignLoader(DataLoader(Tensors(10), 3, shuffle=True, num_workers=workers), device=CPU, seed=1)
    assert (len(foreign), foreign.num_samples, list(foreign.skipped)) == (4, 10, [])
    first = list(foreign.epoch(1))
    torch.rand(7)
    assert numbers_of(foreign.epoch(1, 2)) == numbers_of(first)[2:]
    assert numbers_of(foreign.epoch(2)) != numbers_of(first)
    if workers:  # what they draw is the epoch's as well
        assert all(torch.equal(a, b[0]) for (a, _), b in zip(first[2:], foreign.epoch(1, 2), strict=True))


def test_a_foreign_validation_loader_is_the_same_each_epoch():
    foreign = ForeignLoader(DataLoader(Tensors(10), 3, shuffle=True), device=CPU, training=False)
    assert numbers_of(foreign.epoch(0)) == numbers_of(foreign.epoch(5))


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([torch.zeros(2, 1, 3, 3)], r"batch 0 must be two tensors, images and labels, got a Tensor"),
        ([(torch.zeros(2, 1, 3, 3), [1, 2])], r"batch 0 must be two tensors, .* got a tuple of Tensor, list"),
        ([(torch.zeros(2, 3, 3), torch.zeros(2))], r"batch 0 must be float images \(B, C, H, W\) .* got \(2, 3, 3\)"),
        ([(torch.zeros(2, 1, 3, 3).byte(), torch.zeros(2))], r"batch 0 must be float images .* torch.uint8"),
        ([(torch.zeros(2, 1, 3, 3), torch.tensor([0, -1]))], r"batch 0 has the label -1: it must be 0 to 2"),
        ([(torch.zeros(2, 1, 3, 3), torch.zeros(3))], r"got \(2, 1, 3, 3\) torch.float32 and \(3,\)"),
    ],
)
def test_what_a_foreign_batch_must_be(loader, message):
    with pytest.raises(InputError, match=message):
        list(ForeignLoader(loader, device=CPU, num_classes=3).epoch(0))


def test_a_foreign_loader_has_a_length():
    with pytest.raises(InputTypeError, match="a loader must have a length and give batches, got generator"):
        ForeignLoader((x for x in []), device=CPU)


def test_an_installed_package_brings_a_set(registry, monkeypatch):
    point = metadata.EntryPoint("brought", "data.test_dataset:load_brought", "attnconv.data")
    monkeypatch.setattr(metadata, "entry_points", lambda **asked: [point] if asked["group"] == "attnconv.data" else [])
    assert load_data("brought").num_train == 10
    with pytest.raises(InputError, match="'brough' is neither a data set nor an existing folder; nearest: 'brought'"):
        load_data("brough")


def load_brought(data_dir):
    return Pictures(), Pictures(6)
