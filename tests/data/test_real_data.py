"""The real CIFAR-100 and Imagewoof, where they are at hand."""

import pytest
import torch

from attnconv.data import load_data

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cifar100(real_data):
    return load_data("cifar100", data_dir=real_data)


@pytest.fixture(scope="module")
def imagewoof(real_data):
    return load_data(str(real_data / "imagewoof2-160"), image_size=64, train_subset=256)


def test_cifar100(cifar100):
    assert (cifar100.num_train, cifar100.num_val, cifar100.channels) == (50000, 10000, 3)
    assert (len(cifar100.classes), cifar100.classes[:2]) == (100, ("apple", "aquarium_fish"))
    assert cifar100.train.labels.bincount().tolist() == [500] * 100
    # the constants that papers print
    assert cifar100.mean == pytest.approx((0.5071, 0.4865, 0.4409), abs=1e-4)
    assert cifar100.std == pytest.approx((0.2673, 0.2564, 0.2762), abs=1e-4)


def test_cifar100_batches(cifar100):
    train, val = cifar100.loaders(batch_size=128, seed=0, device=CPU, workers=0)
    images = torch.cat([batch.images for batch in val.epoch(0)])
    assert (len(train), train.num_samples, len(val), len(images)) == (390, 49920, 79, 10000)
    assert images.mean().abs() < 0.02
    assert images.std() == pytest.approx(1, abs=0.02)


def test_imagewoof(imagewoof):
    assert (imagewoof.num_train, imagewoof.num_val, len(imagewoof.classes)) == (256, 3929, 10)
    assert len(set(imagewoof.train.labels)) == 10


def test_imagewoof_batches(imagewoof):
    train, _ = imagewoof.loaders(batch_size=64, seed=0, device=CPU, workers=2)
    batches = list(train.epoch(0))
    images, labels = torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches])
    assert images.shape == (256, 3, 64, 64)
    assert sorted(labels.tolist()) == sorted(imagewoof.train.labels)
    assert images.mean().abs() < 0.5
    assert torch.equal(torch.cat([b.images for b in train.epoch(0, start=2)]), images[128:])
