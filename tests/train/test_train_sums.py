import pytest
import torch

from attnconv.train.train_sums import TrainSums

# (sum of the losses, hits, images) of batches of 1, 3 and 2 images, of which 1, 1 and 2 are right.
STEPS = [(0.5, 1, 1), (3.75, 1, 3), (4.0, 2, 2)]


def sums_of(tmp_path, flush_after):
    sums = TrainSums()
    for step, values in enumerate(STEPS, 1):
        sums.add(step, 0.1, torch.tensor(values))
        if step in flush_after:
            sums.flush(tmp_path)
    return sums


@pytest.mark.parametrize("flush_after", [{3}, {1, 2, 3}, {2, 3}])
def test_each_image_has_the_same_weight(tmp_path, flush_after):
    sums = sums_of(tmp_path, flush_after)
    assert sums.to_dict() == {"loss": 0.5 + 3.75 + 4.0, "hits": 4, "images": 6, "seconds": 0, "waited": 0}
    assert sums.mean_loss == pytest.approx(8.25 / 6)
    assert sums.top1 == pytest.approx(100 * 4 / 6)


def test_stored_sums_go_on(tmp_path):
    sums = TrainSums(**sums_of(tmp_path, {3}).to_dict())
    sums.add(4, 0.1, torch.tensor([1.0, 0, 1]))
    sums.flush(tmp_path)
    assert (sums.loss, sums.hits, sums.images) == (9.25, 4, 7)


def test_several_processes_are_summed_once(tmp_path):
    sums = TrainSums()
    for step, values in enumerate(STEPS, 1):
        sums.add(step, 0.1, torch.tensor(values))
    sums.flush(tmp_path, lambda values: 2 * values)
    sums.flush(tmp_path, lambda values: 2 * values)
    assert (sums.loss, sums.hits, sums.images) == (16.5, 8, 12)


def test_before_the_first_image():
    sums = TrainSums()
    assert (sums.mean_loss, sums.top1, sums.images_per_second) == (0, 0, 0)
