"""The generated sets are what their docstrings prove them to be."""

import hashlib
import itertools
import math

import numpy as np
import pytest
import torch

from attnconv.checks import InputError
from attnconv.data import load_data, prepare_image
from attnconv.data.generated import GAP, GLYPH_SIDE, GLYPHS, LEVEL, NOISE, below
from attnconv.models import create_model

CPU = torch.device("cpu")
NAMES = ("far-pairs", "textures", "far-context")
# Of the first eight images and labels of training and validation.
DIGESTS = {
    "far-pairs": ["ab0a86d8c59f0321", "e605d315b885bc33"],
    "textures": ["85d6460419b6f516", "97421cb512fdf41e"],
    "far-context": ["d6a1d6556f09c051", "1525f884aff64eb8"],
}


@pytest.fixture(scope="module")
def pairs():
    return load_data("far-pairs")


def glyph_boxes(images):
    """Left column and kind, (N, 2) each, of the two glyphs of far-pairs, found in the pixels."""
    bright = (images.squeeze(1) >= LEVEL).numpy()  # (N, H, W); the ground is darker
    assert NOISE <= LEVEL
    half = bright.shape[2] // 2
    found = [[seen_glyph(image[:, :half], 0), seen_glyph(image[:, half:], half)] for image in bright]
    return np.array(found).transpose(2, 0, 1)


def seen_glyph(image, offset):
    rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
    seen = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert seen.shape == (GLYPH_SIDE, GLYPH_SIDE)  # every glyph touches the four sides of its box
    (kind,) = (kind for kind, glyph in enumerate(GLYPHS) if (glyph == seen).all())
    return offset + columns[0], kind


def test_the_stream_of_random_numbers_is_this_one():
    assert below(np.random.PCG64(7), 1000, 2, 3).tolist() == [[43, 325, 786], [314, 901, 372]]
    assert below(np.random.PCG64(7), np.array([[1, 2, 3], [4, 5, 6]]), 2, 3).tolist() == [[0, 1, 2], [2, 1, 0]]


@pytest.mark.parametrize("name", NAMES)
def test_the_images_are_these_ones(name):
    data = load_data(name)
    digests = [
        hashlib.sha256(part.images[:8].numpy().tobytes() + part.labels[:8].numpy().tobytes()).hexdigest()[:16]
        for part in (data.train, data.val)
    ]
    assert digests == DIGESTS[name]


@pytest.mark.parametrize("name", NAMES)
def test_training_and_validation_share_no_image_and_have_equal_classes(name):
    data = load_data(name)
    parts = [{image.numpy().tobytes() for image in part.images} for part in (data.train, data.val)]
    assert [len(part) for part in parts] == [data.num_train, data.num_val]  # none twice
    assert not parts[0] & parts[1]
    for part in (data.train, data.val):
        counts = part.labels.flatten().bincount(minlength=len(data.classes))
        foreground = counts[1:] if name == "far-context" else counts
        assert len(foreground.unique()) == 1
        assert int(foreground[0]) > 0


@pytest.mark.parametrize("name", NAMES)
def test_images_come_unmoved_and_normalised(name):
    data = load_data(name)
    train, _ = data.loaders(batch_size=len(data.train), seed=0, device=CPU, workers=0)
    images, labels = next(iter(train.epoch(0)))
    order = train.order.batches(0)[0]
    assert torch.equal(images, train.normalise(data.train.images[order]))
    assert torch.equal(labels, data.train.labels[order])
    assert images.mean().item() == pytest.approx(0, abs=1e-4)
    assert images.std().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(("name", "size"), [("far-pairs", (16, 32)), ("textures", (16, 32)), ("far-context", (32, 32))])
def test_another_size_is_refused(name, size):
    assert load_data(name).image_size == size
    message = f"data set '{name}' is made at {size[0]} x {size[1]} pixels: leave image_size out, got 16"
    with pytest.raises(InputError, match=message):
        load_data(name, image_size=16)


def test_a_pair_is_prepared_for_the_network_as_it_is(pairs):
    image = prepare_image(pairs.val.images[0], pairs.meta())
    assert torch.equal(image, next(iter(pairs.val_loader(batch_size=1, device=CPU, workers=0).epoch(0))).images[0])


def test_square_sets_may_be_asked_for_by_their_own_size():
    assert load_data("far-context", image_size=32).image_size == (32, 32)


def test_pairs_are_the_same_or_different_and_each_kind_is_as_frequent_in_both_classes(pairs):
    for part in (pairs.train, pairs.val):
        _, kinds = glyph_boxes(part.images)  # (N, 2)
        assert np.array_equal(kinds[:, 0] != kinds[:, 1], part.labels.numpy())
        counts = [
            [np.bincount(kinds[part.labels.numpy() == label, side], minlength=len(GLYPHS)) for side in (0, 1)]
            for label in (0, 1)
        ]
        assert len({int(count) for count in np.ravel(counts)}) == 1


def test_glyphs_are_farther_apart_than_a_window_is_wide(pairs):
    lefts, _ = glyph_boxes(torch.cat([pairs.train.images, pairs.val.images]))
    gaps = lefts[:, 1] - (lefts[:, 0] + GLYPH_SIDE - 1)
    assert gaps.min() == GAP
    # The widest window of the last layer, from the gradients of one of its outputs far from the border.
    model = create_model("convnet3", num_classes=2, in_channels=1, image_size=96).eval()
    x = torch.rand(1, 1, 96, 96, requires_grad=True)
    model.layer1[2] = model.layer2[2] = model.layer3[2] = torch.nn.Identity()  # a ReLU may hide what it sees
    for layer in (model.layer1, model.layer2, model.layer3):
        layer[3] = torch.nn.AvgPool2d(2)  # likewise
    model.forward_features(x)[0, :, 6, 6].sum().backward()
    width = int((x.grad[0, 0] != 0).any(0).sum())
    assert width == 22
    assert gaps.min() + 1 > width  # columns that a window with pixels of both glyphs has


def test_the_fours_share_ground_and_places(pairs):
    images, labels = pairs.val.images.squeeze(1).view(-1, 4, 16, 32), pairs.val.labels.view(-1, 4)
    assert labels.unique(dim=0).tolist() == [[0, 0, 1, 1]]
    left, right = images[..., :16], images[..., 16:]
    for half, order in ((left, (0, 1, 0, 1)), (right, (0, 1, 1, 0))):
        for image, like in enumerate(order):
            assert torch.equal(half[:, image], half[:, like])
    assert not torch.equal(left[:, 0], left[:, 1])


def scores_of_fours(model, pairs):
    model.eval()
    images, _ = next(iter(pairs.val_loader(batch_size=96, device=CPU, workers=0).epoch(0)))
    with torch.no_grad():
        logits = model(images)
    return logits.double().diff(dim=1).view(-1, 4)  # different minus same


def trained_briefly(model, pairs, steps=2):
    """So that batch norm's statistics are those of the images."""
    model.train()
    loader = pairs.train_loader(batch_size=64, seed=0, device=CPU, workers=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for images, labels in itertools.islice(loader.epoch(0), steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("name", ["convnet3", "aa_convnet3"])
def test_scores_of_the_plain_network_are_sums_of_two_terms(pairs, name):
    torch.manual_seed(0)
    model = create_model(name, num_classes=2, in_channels=1, image_size=pairs.image_size)
    scores = scores_of_fours(trained_briefly(model, pairs), pairs)
    both = (scores[:, :2].sum(1) - scores[:, 2:].sum(1)).abs().max() / scores.std()
    hits = ((scores > scores.median()) == torch.tensor([False, False, True, True])).sum(1)
    losses = torch.nn.functional.softplus(scores * torch.tensor([1.0, 1.0, -1.0, -1.0]))
    if name == "convnet3":
        assert both < 1e-4
        assert hits.max() <= 3
        assert losses.mean(1).min() > math.log(2) - 1e-6
    else:
        assert both > 1e-2


def test_no_sum_of_two_terms_is_right_on_more_than_three_quarters():
    """Of all 2**16 answers to the pairs of four kinds, by brute force.

    An answer is a sum of two terms above a threshold just if no two rows and two columns contradict one another.
    """
    kinds = len(GLYPHS)
    assert kinds == 4
    numbers = np.arange(2 ** (kinds * kinds))
    answers = (numbers[:, None] >> np.arange(kinds * kinds)) & 1
    answers = answers.reshape(-1, kinds, kinds).astype(bool)  # True: "different"
    sums = np.ones(len(answers), bool)
    for i, k in itertools.combinations(range(kinds), 2):
        for j, m in itertools.permutations(range(kinds), 2):
            sums &= ~(answers[:, i, j] & answers[:, k, m] & ~answers[:, i, m] & ~answers[:, k, j])
    different = ~np.eye(kinds, dtype=bool)
    weights = np.where(different, 1 / (2 * kinds * (kinds - 1)), 1 / (2 * kinds))
    accuracy = ((answers == different) * weights).sum((1, 2))
    assert accuracy.max() == pytest.approx(1)
    assert accuracy[sums].max() == pytest.approx(0.75)


@pytest.mark.parametrize("part", ["train", "val"])
def test_textures_differ_in_the_direction_of_their_likeness_and_one_of_eight_in_nothing(part):
    source = getattr(load_data("textures"), part)
    x = source.images.double().squeeze(1)
    x = x - x.mean()
    inner = x[:, :-1, 1:-1]
    likeness = (
        torch.stack(  # of each image, in each direction: (N, 4)
            [(inner * x[:, d : 15 + d, 1 + r : 31 + r]).mean((1, 2)) for d, r in ((0, 1), (1, 0), (1, 1), (1, -1))],
            dim=1,
        )
        / x.square().mean()
    )
    blank = torch.arange(len(x)) // 4 % 8 == 0
    assert source.labels[blank].bincount().tolist() == [len(x) // 32] * 4
    means = torch.stack([likeness[~blank & (source.labels == c)].mean(0) for c in range(4)])
    torch.testing.assert_close(means, 0.5 * torch.eye(4, dtype=torch.float64), rtol=0, atol=0.02)
    assert likeness[blank].mean(0).abs().max() < 0.02
    assert (likeness[~blank].argmax(1) == source.labels[~blank]).all()
    assert x[blank].std() / x[~blank].std() == pytest.approx(1, abs=0.02)


def twins(part):
    """Images and labels of far-context, (P, 2, H, W) each, as numpy arrays."""
    return (tensor.view(-1, 2, 32, 32).numpy() for tensor in (part.images.squeeze(1), part.labels))


def test_the_twins_differ_in_the_glyph_and_in_the_labels_of_the_block():
    data = load_data("far-context")
    for part in (data.train, data.val):
        images, labels = twins(part)
        block = labels[:, 0] > 0
        assert np.array_equal(labels, np.stack([block, 2 * block], axis=1))
        assert (block.sum((1, 2)) >= 25).all()
        assert (images.min(1)[block] >= LEVEL).all()
        sums = images.astype(int).sum((2, 3))
        plus, cross = (LEVEL * GLYPHS[kind].sum() for kind in (0, 1))
        assert (sums[:, 0] - sums[:, 1] == plus - cross).all()


def test_block_and_glyph_are_in_opposite_corners_at_least_15_pixels_apart():
    images, labels = twins(load_data("far-context").train)
    corners, least = set(), 99
    for image, label in zip(images, labels, strict=True):
        (rows, columns), (block_rows, block_columns) = (
            np.nonzero(there) for there in (image[0] != image[1], label[0] > 0)
        )
        distances = [
            np.abs(cue[:, None] - block).min() for cue, block in ((rows, block_rows), (columns, block_columns))
        ]
        least = min(least, *distances)
        corners.add((bool(rows.mean() > 16), bool(columns.mean() > 16)))
        assert (rows.mean() > 16) != (block_rows.mean() > 16)
    assert least == 15
    assert len(corners) == 4
