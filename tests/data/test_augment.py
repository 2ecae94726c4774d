"""Augmentation: what it does to images and labels; test_loaders.py has what every loader promises of it."""

import pytest
import torch
from torchvision.transforms import v2

from attnconv.checks import InputError
from attnconv.data import Augmentation, decode_image, load_data
from attnconv.data.augment import batch_mixer
from attnconv.data.batches import Batch, seed_of

CPU = torch.device("cpu")
ALL = Augmentation(crop_scale=0.5, trivial=True, erasing=0.5, mixup=0.4, cutmix=1.0)


@pytest.fixture(params=["digits", "folder"])
def make_loader(request, image_folder):
    """For a set of 13 training images: augmentation -> training loader."""
    data = (
        load_data("digits", train_subset=13)
        if request.param == "digits"
        else load_data(str(image_folder), image_size=16)
    )
    return lambda augmentation: data.train_loader(
        batch_size=4, seed=3, device=CPU, workers=0, augmentation=augmentation
    )


def stacked(batches) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


@pytest.mark.parametrize(
    "augmentation",
    [Augmentation(trivial=True), Augmentation(erasing=1.0), Augmentation(mixup=0.4), Augmentation(cutmix=1)],
)
def test_each_part_changes_the_images(make_loader, augmentation):
    plain, other = make_loader(Augmentation()), make_loader(augmentation)
    images, changed = stacked(plain.epoch(0))[0], stacked(other.epoch(0))[0]
    assert changed.shape == images.shape
    assert ((images != changed).flatten(1).any(1)).sum() >= 6  # of 12; some operations leave an image as it is


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(mixup=0.4), ALL])
def test_nothing_mixes_batches_without_a_seed(augmentation):
    assert batch_mixer(augmentation, seed=None, num_classes=3) is None


def test_labels_are_shares_where_images_are_mixed(make_loader):
    train, plain = make_loader(ALL), make_loader(Augmentation())
    for batch, unmixed in zip(train.epoch(0), plain.epoch(0), strict=True):
        assert (batch.labels.dtype, batch.labels.ndim) == (torch.float32, 2)
        torch.testing.assert_close(batch.labels.sum(1), torch.ones(4))
        assert (batch.labels[torch.arange(4), unmixed.labels] > 0).all()


def test_an_image_of_a_file_is_that_of_its_own_seed(image_folder):
    """Crop, flip, TrivialAugment and erasing to the mean colour, in this order, under the seed of (seed, epoch, i)."""
    data = load_data(str(image_folder), image_size=16)
    augmentation = Augmentation(crop_scale=0.2, trivial=True, erasing=1.0)
    train = data.train_loader(batch_size=1, seed=5, device=CPU, workers=0, augmentation=augmentation)
    number = train.order.batches(2)[0].item()
    torch.default_generator.manual_seed(seed_of(5, 2, number))
    augment = v2.Compose(
        [
            v2.RandomResizedCrop(16, scale=(0.2, 1), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.TrivialAugmentWide(),
            v2.RandomErasing(1.0, value=[124, 116, 104]),
        ]
    )
    expected = train.normalise(augment(decode_image(data.train.paths[number], 3)))
    assert torch.equal(next(train.epoch(2)).images[0], expected)


def test_erasing_leaves_the_mean_colour():
    data = load_data("digits", train_subset=40)
    train = data.train_loader(batch_size=40, seed=0, device=CPU, workers=0, augmentation=Augmentation(erasing=1.0))
    plain = data.train_loader(batch_size=40, seed=0, device=CPU, workers=0)
    images, unchanged = next(train.epoch(0)).images, next(plain.epoch(0)).images
    erased = images[images != unchanged]
    assert len(erased) > 40
    assert erased.abs().max() < 0.01


def mixed(augmentation: Augmentation, images: torch.Tensor, number: int = 0) -> Batch:
    mix = batch_mixer(augmentation, seed=0, num_classes=7)
    assert mix is not None
    return mix(Batch(images, torch.arange(len(images))), 0, number)


def test_mixup_blends_each_image_with_the_one_before_it():
    images = torch.randn(5, 3, 6, 4, generator=torch.Generator().manual_seed(0))
    batch = mixed(Augmentation(mixup=0.4), images.clone())
    share = batch.labels[0, 0]
    assert 0 < share < 1
    labels = torch.eye(7)[:5]
    torch.testing.assert_close(batch.images, share * images + (1 - share) * images.roll(1, 0))
    torch.testing.assert_close(batch.labels, share * labels + (1 - share) * labels.roll(1, 0))


def test_cutmix_swaps_a_rectangle_of_the_share_that_labels_say():
    images = torch.arange(5.0)[:, None, None, None].expand(5, 3, 16, 12)
    for number in range(5):
        batch = mixed(Augmentation(cutmix=1.0), images.clone(), number)
        kept = (batch.images == images).double().mean((1, 2, 3))
        torch.testing.assert_close(batch.labels.diagonal().double(), kept, rtol=0, atol=1e-6)
        assert (batch.images == images).logical_or(batch.images == images.roll(1, 0)).all()


def test_with_both_each_batch_has_one_or_the_other():
    images = torch.arange(5.0)[:, None, None, None].expand(5, 3, 16, 12)
    swapped = [
        bool((batch.images == batch.images.round()).all())
        for batch in (mixed(Augmentation(mixup=0.4, cutmix=1.0), images.clone(), number) for number in range(20))
    ]
    assert 4 <= sum(swapped) <= 16


def test_a_share_is_drawn_for_each_batch():
    images = torch.zeros(5, 1, 2, 3)
    shares = {mixed(Augmentation(mixup=1.0), images, number).labels[0, 0].item() for number in range(5)}
    assert len(shares) == 5


@pytest.mark.parametrize("count", [0, 1])
def test_a_batch_too_small_to_mix(count):
    images = torch.randn(count, 3, 6, 4)
    batch = mixed(Augmentation(mixup=0.4), images.clone())
    torch.testing.assert_close(batch.images, images)
    torch.testing.assert_close(batch.labels, torch.eye(7)[:count])


def test_an_empty_batch_of_files_is_mixed_without_a_fault(image_folder):
    for path in (image_folder / "train").rglob("*.jpg"):
        path.write_bytes(b"")
    data = load_data(str(image_folder), image_size=16, skip_bad_images=True)
    train = data.train_loader(batch_size=4, seed=0, device=CPU, workers=0, augmentation=ALL)
    assert [batch.labels.shape for batch in train.epoch(0)] == [(0, 3)] * 3


@pytest.mark.parametrize("name", ["trivial", "erasing", "mixup", "cutmix"])
def test_what_would_part_images_from_the_labels_of_their_pixels_is_refused(name):
    field = {"trivial": "trivial_augment", "erasing": "random_erasing"}.get(name, name)
    settings = {"batch_size": 4, "device": torch.device("cpu"), "workers": 0}
    data, augmentation = load_data("far-context"), Augmentation(**{name: True if name == "trivial" else 0.5})
    with pytest.raises(InputError, match=f"^{field} would part the images from their labels, which are one a pixel"):
        data.train_loader(seed=0, augmentation=augmentation, **settings)
    assert len(load_data("far-pairs").train_loader(seed=0, augmentation=augmentation, **settings)) == 528
    plain = data.train_loader(seed=0, augmentation=Augmentation(crop_scale=0.5), **settings)  # of files only
    images, labels = next(iter(plain.epoch(0)))
    assert (images.shape, labels.shape) == ((4, 1, 32, 32), (4, 32, 32))
