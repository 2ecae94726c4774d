"""Image files: what workers decode, and what happens to files that cannot be decoded."""

import re

import pytest
import torch
from torchvision.transforms import v2

from attnconv.checks import InputError
from attnconv.data import decode_image, files, load_data, prepare_image
from attnconv.data.decode import decode_bytes
from attnconv.data.order import seed_of

CPU = torch.device("cpu")


def make_loaders(folder, *, workers: int = 0, batch_size: int = 4, skip: bool = False):
    data = load_data(str(folder), image_size=16, skip_bad_images=skip)
    return data.loaders(batch_size=batch_size, seed=0, device=CPU, workers=workers)


@pytest.fixture
def bad_files(image_folder):
    """Two files of a class that are no images; their paths."""
    paths = [image_folder / "train" / "dog" / name for name in ("102.jpg", "104.jpg")]
    paths[0].write_bytes(b"")
    paths[1].write_text("no picture at all")
    return [str(path) for path in paths]


def test_validation_shows_what_prepare_image_shows(image_folder):
    data = load_data(str(image_folder), image_size=16)
    _, val = data.loaders(batch_size=2, seed=0, device=CPU, workers=0)
    images = torch.cat([batch.images for batch in val.epoch(0)])
    expected = torch.stack([prepare_image(decode_image(path, 3), data.meta()) for path in data.val.paths])
    assert torch.equal(images, expected)


def test_an_augmented_image_is_that_of_its_own_seed(image_folder):
    """Crops of 35 to 100% of the area, and flips, drawn from a generator seeded by (seed, epoch, image)."""
    data = load_data(str(image_folder), image_size=16)
    train, _ = data.loaders(batch_size=1, seed=5, device=CPU, workers=0)
    number = train.order.batches(2)[0].item()
    torch.default_generator.manual_seed(seed_of(5, 2, number))
    augment = v2.Compose([v2.RandomResizedCrop(16, scale=(0.35, 1), antialias=True), v2.RandomHorizontalFlip()])
    expected = train.normalise(augment(decode_image(data.train.paths[number], 3)))
    assert torch.equal(next(train.epoch(2)).images[0], expected)


def test_training_augments(image_folder):
    data = load_data(str(image_folder), image_size=16)
    train, _ = data.loaders(batch_size=13, seed=0, device=CPU, workers=0)
    first, second = (next(train.epoch(epoch)) for epoch in (0, 1))
    first, second = (batch.images[train.order.batches(e)[0][1].argsort()] for e, batch in enumerate((first, second)))
    differ = (first != second).flatten(1).any(1)  # image by image, in the order of the files
    assert differ.all()


@pytest.mark.parametrize("start", [0, 1, 2])
def test_batches_before_the_start_are_not_decoded(image_folder, monkeypatch, start):
    decoded = []
    monkeypatch.setattr(
        files, "decode_bytes", lambda *args, name: decoded.append(name) or decode_bytes(*args, name=name)
    )
    train, _ = make_loaders(image_folder)
    assert len(list(train.epoch(0, start))) == 3 - start
    assert len(decoded) == 4 * (3 - start)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_stops_the_epoch_with_one_line(image_folder, bad_files, workers):
    train, _ = make_loaders(image_folder, workers=workers, batch_size=13)
    names = "|".join(re.escape(path) for path in bad_files)
    line = rf"\Acannot decode image ({names}): [^\n]+; --skip-bad-images leaves such files out\Z"
    # no `as`: an exception that is kept keeps the workers, until the garbage collector takes five seconds to end them
    with pytest.raises(InputError, match=line):
        list(train.epoch(0))


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_skipped_and_listed_once(image_folder, bad_files, workers):
    train, val = make_loaders(image_folder, workers=workers, batch_size=13, skip=True)
    batches = [batch for epoch in (0, 1) for batch in train.epoch(epoch)]
    assert [len(batch.labels) for batch in batches] == [11, 11]
    assert [batch.images.shape[0] for batch in batches] == [11, 11]
    assert [batch.labels.bincount(minlength=3).tolist() for batch in batches] == [[5, 4, 2]] * 2
    assert train.skipped == bad_files
    assert train.num_samples == 13
    assert val.skipped == []


def test_good_neighbours_of_a_bad_image_are_augmented_as_ever(image_folder):
    train, _ = make_loaders(image_folder, batch_size=13)
    before = next(train.epoch(0))
    (image_folder / "train" / "cat" / "000.jpg").write_bytes(b"")
    train, _ = make_loaders(image_folder, batch_size=13, skip=True)
    after = next(train.epoch(0))
    kept = train.order.batches(0)[0] != 0
    assert torch.equal(after.images, before.images[kept])
    assert torch.equal(after.labels, before.labels[kept])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_without_a_good_image_comes_empty(image_folder, workers):
    for name in ("300.jpg", "301.jpg"):
        (image_folder / "val" / "dog" / name).write_bytes(b"")
    _, val = make_loaders(image_folder, batch_size=2, workers=workers, skip=True)
    batches = list(val.epoch(0))
    assert [batch.labels.tolist() for batch in batches] == [[], [1, 2], [2]]
    assert batches[0].images.shape == (0, *batches[1].images.shape[1:])


def test_a_small_set_has_nothing_to_skip():
    data = load_data("digits", skip_bad_images=True)
    assert [loader.skipped for loader in data.loaders(batch_size=8, seed=0, device=CPU, workers=0)] == [[], []]
