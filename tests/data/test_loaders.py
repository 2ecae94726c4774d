"""Promises of every loader, for both kinds of source, with worker processes and with all of the augmentation."""

import pytest
import torch

from attnconv.checks import InputError, InputTypeError
from attnconv.data import Augmentation, load_data
from attnconv.data.image_data import topk

CPU = torch.device("cpu")
ALL = Augmentation(crop_scale=0.5, trivial=True, erasing=0.5, mixup=0.4, cutmix=1.0)


@pytest.fixture(params=["digits", "folder-0", "folder-2"])
def data_and_workers(request, image_folder):
    kind, _, workers = request.param.partition("-")
    if kind == "digits":
        return load_data("digits", train_subset=13), 0
    return load_data(str(image_folder), image_size=16), int(workers)


@pytest.fixture
def make_loaders(data_and_workers):
    data, workers = data_and_workers
    return lambda seed=0, augmentation=Augmentation(): data.loaders(  # noqa: B008  frozen
        batch_size=4, seed=seed, device=CPU, workers=workers, augmentation=augmentation
    )


both = pytest.mark.parametrize("augmentation", [Augmentation(), ALL], ids=["plain", "all"])


def stacked(batches) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(stacked(a), stacked(b), strict=True))


def test_batches(make_loaders, data_and_workers):
    data, _ = data_and_workers
    train, _ = make_loaders()
    batches = list(train.epoch(0))
    assert len(batches) == 3
    assert (len(train), train.num_samples, train.skipped) == (3, 12, [])
    assert all(batch.images.shape == (4, data.channels, *data.image_size) for batch in batches)
    assert all((batch.images.dtype, batch.labels.dtype) == (torch.float32, torch.int64) for batch in batches)
    assert all(batch.labels.shape == (4,) for batch in batches)


def test_validation_gives_every_image_once_and_in_order(make_loaders, data_and_workers):
    data, _ = data_and_workers
    _, val = make_loaders()
    _, labels = stacked(val.epoch(0))
    assert (len(val), val.num_samples) == (-(-data.num_val // 4), data.num_val)
    assert torch.equal(labels, torch.as_tensor(data.val.labels))
    assert same(val.epoch(0), val.epoch(5))


@both
def test_seed_and_epoch_decide_all(make_loaders, augmentation):
    (train, _), (again, _) = make_loaders(3, augmentation), make_loaders(3, augmentation)
    list(again.epoch(7))  # another past
    assert same(train.epoch(2), again.epoch(2))


@pytest.mark.parametrize(("seed", "epoch"), [(3, 1), (4, 2)])
def test_another_seed_or_epoch_gives_other_batches(make_loaders, seed, epoch):
    train, _ = make_loaders(seed=3)
    other, _ = make_loaders(seed=seed)
    assert not same(train.epoch(2), other.epoch(epoch))


@both
@pytest.mark.parametrize("start", [1, 2])
def test_going_on_in_the_middle_of_an_epoch(make_loaders, start, augmentation):
    (train, _), (again, _) = make_loaders(0, augmentation), make_loaders(0, augmentation)
    whole = list(train.epoch(1))
    rest = list(again.epoch(1, start))
    assert len(rest) == 3 - start
    assert same(rest, whole[start:])


def test_nothing_is_left_after_the_last_batch(make_loaders):
    train, _ = make_loaders()
    assert list(train.epoch(0, start=3)) == []


def test_an_epoch_that_is_broken_off_leaves_no_trace(make_loaders):
    train, _ = make_loaders()
    expected = list(train.epoch(1))
    next(train.epoch(0))
    assert same(train.epoch(1), expected)


@both
def test_the_global_generator_is_left_alone_and_decides_nothing(make_loaders, global_random_state, augmentation):
    train, val = make_loaders(0, augmentation)
    expected = list(train.epoch(0))
    list(val.epoch(0))
    assert torch.equal(torch.get_rng_state(), global_random_state)
    torch.manual_seed(2)
    assert same(train.epoch(0), expected)


def test_a_start_beyond_the_epoch_is_refused_at_once(make_loaders):
    train, _ = make_loaders()
    with pytest.raises(InputError, match="start must be at most 3, the batches of an epoch, got 4"):
        train.epoch(0, start=4)


def test_validation_is_never_augmented(make_loaders):
    (_, plain), (_, val) = make_loaders(), make_loaders(0, ALL)
    assert same(plain.epoch(0), val.epoch(0))


@both
def test_workers_change_nothing(image_folder, augmentation):
    data = load_data(str(image_folder), image_size=16)
    here, there = (
        data.train_loader(batch_size=4, seed=0, device=CPU, workers=n, augmentation=augmentation).epoch(1)
        for n in (0, 2)
    )
    assert same(here, there)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"batch_size": 14},
            InputError,
            "batch_size must be at most 13, the training images of 'digits', got 14",
        ),
        ({"batch_size": 0}, InputError, "batch_size must be at least 1, got 0"),
        ({"workers": -1}, InputError, "workers must be at least 0, got -1"),
        ({"seed": -1}, InputError, "seed must be at least 0, got -1"),
        ({"seed": 0.5}, InputTypeError, "seed must be an integer, got 0.5"),
    ],
)
def test_options_out_of_range(options, error, message):
    data = load_data("digits", train_subset=13)
    with pytest.raises(error, match=f"^{message}$"):
        data.loaders(**({"batch_size": 4, "seed": 0, "device": CPU, "workers": 0} | options))


def test_the_most_likely_classes_come_first():
    logits = torch.tensor([0.0, 2.0, 1.0]).log_softmax(-1)
    (first, most), (second, less) = topk(logits, ["a", "b", "c"], 2)
    assert (first, second) == ("b", "c")
    assert (most, less) == pytest.approx(tuple(logits.exp()[[1, 2]].tolist()))
    assert [name for name, _ in topk(logits.half(), ["a", "b", "c"], 9)] == ["b", "c", "a"]
