import pytest
import torch

from attnconv.train.train_sums import TrainSums

# (loss, logits of 2 classes, labels): batches of 1, 3 and 2 images, of which 1, 1 and 2 are right.
BATCHES = [(0.5, [[2, 1]], [0]), (1.25, [[2, 1], [2, 1], [1, 2]], [1, 1, 1]), (2.0, [[1, 2], [2, 1]], [1, 0])]


def sums_of(tmp_path, flush_after):
    sums = TrainSums()
    for step, (loss, logits, labels) in enumerate(BATCHES, 1):
        sums.add(step, 0.1, torch.tensor(loss), torch.tensor(logits), torch.tensor(labels))
        if step in flush_after:
            sums.flush(tmp_path)
    return sums


@pytest.mark.parametrize("flush_after", [{3}, {1, 2, 3}, {2, 3}])
def test_each_image_has_the_same_weight(tmp_path, flush_after):
    sums = sums_of(tmp_path, flush_after)
    assert sums.to_dict() == {"loss": 0.5 + 3.75 + 4.0, "hits": 4, "images": 6, "seconds": 0}
    assert sums.mean_loss == pytest.approx(8.25 / 6)
    assert sums.top1 == pytest.approx(100 * 4 / 6)


def test_stored_sums_go_on(tmp_path):
    sums = TrainSums(**sums_of(tmp_path, {3}).to_dict())
    sums.add(4, 0.1, torch.tensor(1.0), torch.tensor([[1, 2]]), torch.tensor([0]))
    sums.flush(tmp_path)
    assert (sums.loss, sums.hits, sums.images) == (9.25, 4, 7)


def test_before_the_first_image():
    sums = TrainSums()
    assert (sums.mean_loss, sums.top1, sums.images_per_second) == (0, 0, 0)


def test_the_larger_share_of_a_mixed_image_counts(tmp_path):
    sums = TrainSums()
    shares = torch.tensor([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4]])
    sums.add(1, 0.1, torch.tensor(1.0), torch.tensor([[2, 1], [1, 2], [1, 2]]), shares)
    sums.flush(tmp_path)
    assert (sums.hits, sums.images) == (2, 3)
