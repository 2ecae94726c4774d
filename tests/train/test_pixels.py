"""A label a pixel: what a step and an evaluation make of it, and mean intersection over union."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from train.toy import toy_config

from attnconv.train.device import make_engine, make_fabric
from attnconv.train.evaluate import confusion, evaluate, mean_iou
from attnconv.train.fit import fit
from attnconv.train.run_folder import RunFolder
from attnconv.train.run_state import RunState
from attnconv.train.step import compute_gradients, train_step


def looped_iou(predicted, labels, classes):
    """Percent, class by class and pixel by pixel."""
    ratios = []
    for k in range(classes):
        both = either = 0
        for p, y in zip(predicted.flatten().tolist(), labels.flatten().tolist(), strict=True):
            both += p == k and y == k
            either += p == k or y == k
        if either:
            ratios.append(both / either)
    return 100 * sum(ratios) / len(ratios)


def test_mean_iou_of_a_hand_example():
    labels = torch.tensor([[[0, 0, 0], [1, 1, 2]]])
    predicted = torch.tensor([[[0, 0, 1], [1, 2, 2]]])
    counts = confusion(F.one_hot(predicted, 4).movedim(-1, 1).float(), labels)
    assert counts.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    # 2 of 3, 1 of 3, 1 of 2; the fourth class is nowhere.
    assert mean_iou(counts) == pytest.approx(100 * (2 / 3 + 1 / 3 + 1 / 2) / 3)


@pytest.mark.parametrize("classes", [2, 5])
def test_mean_iou_is_that_of_a_loop(classes):
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(3, classes, 4, 7, generator=generator)
    labels = torch.randint(classes, (3, 4, 7), generator=generator)
    expected = looped_iou(logits.argmax(1), labels, classes)
    assert mean_iou(confusion(logits, labels)) == pytest.approx(expected)
    assert 0 < expected < 100


class PixelNet(nn.Module):
    """Each pixel for itself; the batch statistics make a part of a batch unlike the whole, so there are none."""

    def __init__(self, classes=3):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, classes, 1)

    def forward(self, x):
        return self.conv(x)


class PixelLoader:
    """Ten images (B, 2, 4, 7) in batches of 4, 4 and 2; the class of a pixel follows from its channels."""

    skipped = ()
    num_samples = 10

    def __init__(self):
        self.images = torch.randn(10, 2, 4, 7, generator=torch.Generator().manual_seed(3))
        self.labels = (self.images[:, 0] > 0).long() + (self.images[:, 1] > 0.5)

    def __len__(self):
        return 3

    def epoch(self, epoch, start=0):
        yield from zip(self.images.split(4)[start:], self.labels.split(4)[start:], strict=True)


def stepped(tmp_path, images, labels, **options):
    model = PixelNet()
    config = toy_config(schedule="constant", momentum=0, weight_decay=0, **options)
    engine = make_engine(model, config, make_fabric("cpu"))
    state = RunState(engine, config=config, batches=3, folder=RunFolder(tmp_path), meta={})
    train_step(engine, state, images, labels)
    state.sums.flush(tmp_path)
    return model, state.sums


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2}, {"accumulate": 3}])
def test_a_step_learns_from_the_mean_of_the_pixels(tmp_path, options):
    images, labels = next(PixelLoader().epoch(0))
    model, sums = stepped(tmp_path, images, labels, lr=0.5, **options)
    expected = PixelNet()
    logits = expected(images)
    loss = F.cross_entropy(logits, labels, label_smoothing=options.get("label_smoothing", 0.0))
    loss.backward()
    assert sums.mean_loss == pytest.approx(loss.item(), rel=1e-5)
    assert sums.top1 == pytest.approx(100 * (logits.argmax(1) == labels).float().mean().item(), rel=1e-5)
    assert sums.images == 4
    for moved, start in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(moved, start - 0.5 * start.grad)


class Two:
    """The ranks of two processes, of which this is one and the other has nothing."""

    world, rank, first = 2, 0, True

    @staticmethod
    def sum(values):
        return values


def test_a_process_without_images_takes_part_in_the_count():
    loader = PixelLoader()
    empty = PixelLoader()
    empty.images, empty.labels = torch.zeros(0, 2, 4, 7), torch.zeros(0, 4, 7, dtype=torch.long)
    counts = []

    class Watching(Two):
        @staticmethod
        def sum(values):
            counts.append(values)
            return values

    whole = evaluate(PixelNet(), loader, ranks=Watching())
    empty.epoch = lambda epoch, start=0: iter([(empty.images, empty.labels)])
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate(PixelNet(), empty, ranks=Watching())
    assert whole.count == 10
    assert [tuple(values.shape) for values in counts] == [(4,), (3, 3), (4,)]


@pytest.mark.parametrize("rows", [(), (3,)])
def test_a_part_without_images_leaves_the_weights(tmp_path, rows):
    """Also where labels are shares of classes."""
    model = PixelNet() if not rows else nn.Sequential(nn.Flatten(), nn.Linear(56, 3))
    config = toy_config(schedule="constant", momentum=0, weight_decay=0)
    engine = make_engine(model, config, make_fabric("cpu"))
    before = [weight.detach().clone() for weight in model.parameters()]
    labels = torch.zeros(0, 3) if rows else torch.zeros(0, 4, 7, dtype=torch.long)
    sums = compute_gradients(engine, config, torch.zeros(0, 2, 4, 7), labels, 1.0)
    assert sums.tolist() == [0, 0, 0]
    assert all(not weight.grad.any() for weight in model.parameters())
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


def test_scores_are_means_over_pixels_and_iou_is_of_all_images_together():
    loader, model = PixelLoader(), PixelNet()
    scores = evaluate(model, loader)
    logits = model(loader.images)
    assert scores.loss == pytest.approx(F.cross_entropy(logits, loader.labels).item(), rel=1e-5)
    assert scores.top1 == pytest.approx(100 * (logits.argmax(1) == loader.labels).float().mean().item(), rel=1e-5)
    assert (scores.top5, scores.count) == (pytest.approx(100), 10)
    assert scores.miou == pytest.approx(looped_iou(logits.argmax(1), loader.labels, 3))
    apart = [looped_iou(*pair, 3) for pair in zip(logits.argmax(1), loader.labels, strict=True)]
    assert abs(scores.miou - sum(apart) / len(apart)) > 0.1


def test_a_run_reports_miou_and_keeps_the_best_by_it(tmp_path):
    loader = PixelLoader()
    config = toy_config(epochs=3, lr=0.5, batch_size=4)
    result = fit(PixelNet(), loader, loader, config=config, out=tmp_path, meta={}, progress=False)
    header, *rows = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    assert header[-1] == "val_miou"
    found = [float(row[-1]) for row in rows]
    assert (result["miou"], result["best_miou"]) == (found[-1], max(found))
    assert result["best_epoch"] == 1 + found.index(max(found))
    assert math.isfinite(result["loss"])
    assert result["top1"] > result["miou"] > 30
