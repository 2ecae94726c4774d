"""Batched crops and flips against one image at a time."""

import pytest
import torch

from attnconv.data import Augmentation
from attnconv.data.batches import BatchOrder, Reading
from attnconv.data.tensors import TensorSource, crop_and_flip
from attnconv.data.view import Normalise

CPU = torch.device("cpu")


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def one_by_one(images: torch.Tensor, moves: torch.Tensor, pad: int) -> torch.Tensor:
    out = torch.zeros_like(images)
    rows, columns = images.shape[-2:]
    for b, (top, left, flip) in enumerate(moves.tolist()):
        for i in range(rows):
            for j in range(columns):
                y, x = i + top - pad, (columns - 1 - j if flip else j) + left - pad
                if 0 <= y < rows and 0 <= x < columns:
                    out[b, :, i, j] = images[b, :, y, x]
    return out


def make_loader(source: TensorSource, batch_size: int, seed: int | None, device: torch.device = CPU):
    channels = source.images.shape[1]
    order, normalise = BatchOrder(len(source), batch_size, seed), Normalise([0.4] * channels, [0.2] * channels, device)
    return source.loader(Reading(order, normalise, Augmentation(), None, device, 0))


@pytest.mark.parametrize("pad", [0, 1, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_crop_and_flip(channels, pad):
    images = noise(8, channels, 5, 7)
    numbers = torch.Generator().manual_seed(1)
    offsets = torch.randint(2 * pad + 1, (8, 2), generator=numbers)
    moves = torch.cat([offsets, torch.tensor([[0], [1]] * 4)], dim=1)
    assert torch.equal(crop_and_flip(images, moves, pad), one_by_one(images, moves, pad))


def test_training_batches_are_crops_of_the_images_the_labels_belong_to():
    source = TensorSource(noise(11, 3, 5, 7), torch.arange(11), pad=2, flip=True)
    loader = make_loader(source, 4, seed=5)
    images, labels = (torch.cat(parts) for parts in zip(*loader.epoch(3), strict=True))
    moves = loader._moves(3)
    expected = loader.normalise(one_by_one(source.images[labels], moves[labels], pad=2))
    assert torch.equal(images, expected)
    assert not torch.equal(images, loader.normalise(source.images[labels]))


def test_moves_use_their_whole_range():
    source = TensorSource(noise(500, 1, 2, 2), torch.zeros(500, dtype=torch.int64), pad=2, flip=True)
    moves = make_loader(source, 4, seed=0)._moves(0)
    assert [sorted(set(column.tolist())) for column in moves.unbind(1)] == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [0, 1]]


@pytest.mark.parametrize(("seed", "epoch"), [(0, 1), (1, 0)])
def test_moves_change_with_seed_and_epoch(seed, epoch):
    source = TensorSource(noise(50, 1, 2, 2), torch.zeros(50, dtype=torch.int64), pad=2, flip=True)
    assert not torch.equal(make_loader(source, 4, seed=0)._moves(0), make_loader(source, 4, seed=seed)._moves(epoch))


def test_without_flip_nothing_is_mirrored():
    source = TensorSource(noise(50, 1, 2, 2), torch.zeros(50, dtype=torch.int64), pad=1)
    assert make_loader(source, 4, seed=0)._moves(0)[:, 2].sum() == 0


def test_a_subset_is_augmented_as_the_whole():
    source = TensorSource(noise(9, 3, 5, 7), torch.arange(9), pad=2, flip=True)
    subset = source.subset(torch.tensor([7, 2]))
    assert (subset.labels.tolist(), subset.pad, subset.flip) == ([7, 2], 2, True)
    assert torch.equal(subset.images, source.images[[7, 2]])


def test_the_frame_is_black():
    source = TensorSource(noise(1, 1, 3, 3), torch.zeros(1, dtype=torch.int64), pad=3)
    loader = make_loader(source, 1, seed=0)
    cropped = loader.normalise(crop_and_flip(source.images, torch.tensor([[0, 0, 0]]), pad=3))
    torch.testing.assert_close(cropped, torch.full((1, 1, 3, 3), -0.4 / 0.2))


def test_validation_is_not_augmented():
    source = TensorSource(noise(7, 3, 5, 7), torch.arange(7), pad=2, flip=True)
    loader = make_loader(source, 4, seed=None)
    images, labels = (torch.cat(parts) for parts in zip(*loader.epoch(0), strict=True))
    assert labels.tolist() == list(range(7))
    assert torch.equal(images, loader.normalise(source.images))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_sees_the_same_batches():
    source = TensorSource(noise(11, 3, 5, 7), torch.arange(11), pad=2, flip=True)
    batches = zip(
        make_loader(source, 4, 5).epoch(1), make_loader(source, 4, 5, torch.device("cuda")).epoch(1), strict=True
    )
    assert all(torch.equal(a.images, b.images.cpu()) and torch.equal(a.labels, b.labels.cpu()) for a, b in batches)
