"""Which image comes when: a function of (seed, epoch) alone."""

import pytest
import torch

from attnconv.checks import InputError, InputTypeError
from attnconv.data.batches import BatchOrder, generator, seed_of


def test_unequal_keys_give_unequal_seeds():
    keys = [(0,), (1,), (1, 0), (1, 2), (2, 1), (1, 2, 0), (1, 2, 0, 0), (12,), (2**32 + 1,), (2**32 + 1, 2), (1, 0, 2)]
    assert len({seed_of(*key) for key in keys}) == len(keys)


def test_a_generator_repeats():
    assert torch.equal(torch.rand(5, generator=generator(3, 1, 4)), torch.rand(5, generator=generator(3, 1, 4)))


def test_seeds_stay_as_they_are():
    """A run that stopped under an older version must go on with the same images."""
    assert seed_of(0, 0) == 8668861027912758289


@pytest.mark.parametrize(
    ("num_images", "batch_size", "seed", "batches", "samples"),
    [
        (13, 4, 0, 3, 12),
        (13, 4, None, 4, 13),
        (12, 4, 0, 3, 12),
        (12, 4, None, 3, 12),
        (3, 3, 5, 1, 3),
        (3, 8, None, 1, 3),
        (2, 1, 0, 2, 2),
    ],
)
def test_lengths(num_images, batch_size, seed, batches, samples):
    order = BatchOrder(num_images, batch_size, seed)
    dealt = order.batches(0)
    assert (len(order), order.num_samples) == (batches, samples)
    assert len(dealt) == batches
    assert sum(map(len, dealt)) == samples


def test_validation_is_in_order():
    dealt = torch.cat(BatchOrder(13, 4).batches(epoch=3))
    assert dealt.tolist() == list(range(13))


def test_training_is_shuffled_without_repeats():
    dealt = torch.cat(BatchOrder(13, 4, seed=0).batches(epoch=0)).tolist()
    assert len(set(dealt)) == 12
    assert dealt != sorted(dealt)


@pytest.mark.parametrize("start", [0, 1, 3])
def test_a_start_leaves_out_the_first_batches(start):
    order = BatchOrder(13, 4, seed=0)
    tail = order.batches(2, start)
    assert len(tail) == 3 - start
    assert all(torch.equal(a, b) for a, b in zip(tail, order.batches(2)[start:], strict=True))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 4), InputError, "start must be at most 3, the batches of an epoch, got 4"),
        ((0, -1), InputError, "start must be at least 0, got -1"),
        ((-1, 0), InputError, "epoch must be at least 0, got -1"),
        ((0.5, 0), InputTypeError, "epoch must be an integer, got 0.5"),
    ],
)
def test_numbers_out_of_range(arguments, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        BatchOrder(13, 4, seed=0).batches(*arguments)
