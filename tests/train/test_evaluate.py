"""Losses and scores of a loader's images."""

import math

import pytest
import torch
from torch import nn
from train.toy import MemoryLoader, toy_net, val_loader

from attnconv.checks import InputError
from attnconv.train.evaluate import Scores, TrainSums, evaluate


class FixedLogits(nn.Module):
    """Gives the rows of a table, one after the other, whatever it sees."""

    def __init__(self, table):
        super().__init__()
        self.table, self.row = table, 0

    def forward(self, x):
        self.row += len(x)
        return self.table[self.row - len(x) : self.row]


class Labels:
    """A loader of labels alone, in batches of 2, 3 and 1."""

    skipped = ()

    def __init__(self, labels):
        self.labels, self.num_samples = torch.tensor(labels), len(labels)

    def __len__(self):
        return 3

    def epoch(self, epoch, start=0):
        for labels in self.labels.split((2, 3, 1)):
            yield torch.zeros(len(labels), 3, 2, 4), labels


RANKED = torch.arange(7.0).flip(0).expand(6, 7)  # class 0 is the likeliest, class 6 the least likely


def test_ragged_batches_count_each_image_once():
    scores = evaluate(FixedLogits(RANKED), Labels([0, 0, 4, 5, 6, 1]))
    total = math.log(sum(math.exp(k) for k in range(7)))
    assert scores == Scores(
        loss=pytest.approx(total - (6 + 6 + 2 + 1 + 0 + 5) / 6, rel=1e-6),
        top1=pytest.approx(100 * 2 / 6),
        top5=pytest.approx(100 * 4 / 6),
        count=6,
    )


def test_with_fewer_than_five_classes_top5_is_of_all_of_them():
    scores = evaluate(FixedLogits(RANKED[:, :3]), Labels([0, 0, 2, 1, 2, 1]))
    assert (scores.top1, scores.top5) == (pytest.approx(100 * 2 / 6), 100)


def test_scores_are_those_of_evaluation_mode_and_modes_are_restored():
    model = toy_net().train()
    model.norm.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = evaluate(model, val_loader()), evaluate(model, val_loader())
    assert first == second  # dropout would change it
    assert first.count == 21
    assert (model.training, model.dropout.training, model.norm.training) == (True, True, False)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_modes_are_restored_after_an_error():
    model = toy_net().train()
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, MemoryLoader(faults={(0, 1): KeyboardInterrupt()}))
    assert model.training


def test_nothing_to_evaluate():
    loader = val_loader()
    loader.epoch = lambda epoch, start=0: iter([])
    with pytest.raises(InputError, match="the loader gave none of its 21 images: nothing to evaluate"):
        evaluate(toy_net(), loader)


class Part:
    """One of several processes, which keeps what it would add to the others' sums."""

    def __init__(self, world):
        self.world = world

    def sum(self, total):
        self.total = total
        return total + 1  # the others have images, too


@pytest.mark.parametrize("world", [1, 2, 3, 5, 8, 11])
def test_each_image_counts_once_whatever_the_number_of_processes(world):
    """21 images in batches of 8: the last one has 5, fewer than some worlds have processes."""
    model, calls = toy_net(), []
    model.register_forward_hook(lambda module, args, output: calls.append(len(output)))
    whole = evaluate(model, val_loader())
    totals = []
    for rank in range(world):
        loader, ranks = val_loader(), Part(world)
        loader.rank, loader.world = rank, world
        calls.clear()
        evaluate(model, loader, ranks=ranks)
        assert len(calls) == 3  # each process runs the network equally often
        totals.append(ranks.total)
    loss, top1, top5, count = sum(totals).tolist()
    assert count == 21
    assert (loss / count, 100 * top1 / count, 100 * top5 / count) == pytest.approx((whole.loss, whole.top1, whole.top5))


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
