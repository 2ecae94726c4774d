"""The random streams of a run, each against numbers written down here, and each against the others.

A run that stopped under an older version must go on with the same images, and runs are compared with runs in all other
tests: there, one stream in place of another would not be noticed. The literal seeds are numpy's
SeedSequence(seed, spawn_key=(epoch, ...)).generate_state(1, uint64), worked out by its published steps in plain
integers; for the steps it is SeedSequence([seed, step, rank]). Here the seed is 7 and the epoch 3.
"""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2
from train.toy import MemoryLoader, toy_config, toy_net, val_loader

from attnconv.data import Augmentation, data_of_datasets, dataset, load_data
from attnconv.data.augment import batch_mixer
from attnconv.data.batches import Batch, BatchOrder, Reading, seed_of
from attnconv.data.files import FileOptions
from attnconv.data.tensors import TensorSource
from attnconv.data.view import Normalise
from attnconv.train.fit import fit
from attnconv.train.step import reseed

SEED, EPOCH = 7, 3
ORDER = 6823953754371609207  # (3,)
MOVES = 13998879582043975642  # (3, 0)
IMAGE_5 = 2996089601602301123  # (3, 5)
BATCH_5 = 8532624517080217819  # (3, 5, 0)
TENSOR_5 = 14085708237840189001  # (3, 5, 1)
FILE_5 = 13691431284667927551  # (3, 5, 0, 0)
FOREIGN = 9442016572634766834  # (3, 0, 0, 0)
HELD_OUT_1 = 23751027488930731  # (1, 0)
VALIDATION_5 = 14153166575370824094  # (5,) of seed 0
STEP_5 = 8693297078379645280  # [7, 5, 0]
STEP_5_OF_RANK_1 = 12176184755866622661  # [7, 5, 1]
CPU = torch.device("cpu")


def numbers(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("key", "expected"),
    [((3,), ORDER), ((3, 0), MOVES), ((3, 5), IMAGE_5), ((3, 5, 0), BATCH_5), ((3, 5, 1), TENSOR_5)],
)
def test_the_seed_of_a_key(key, expected):
    assert seed_of(SEED, *key) == expected


def test_the_order_of_an_epoch():
    found = torch.cat(BatchOrder(13, 4, seed=SEED).batches(EPOCH)).tolist()
    assert found == torch.randperm(13, generator=numbers(ORDER))[:12].tolist()
    assert found == [1, 2, 9, 5, 11, 12, 6, 0, 4, 10, 8, 3]


def test_the_next_epoch_and_the_next_seed_have_other_orders():
    orders = [(7, 3), (7, 4), (8, 3), (8, 2), (6, 4), (3, 7)]
    found = {tuple(torch.cat(BatchOrder(13, 4, seed=seed).batches(epoch)).tolist()) for seed, epoch in orders}
    assert len(found) == len(orders)
    assert torch.cat(BatchOrder(13, 4, seed=7).batches(4)).tolist() == [12, 0, 6, 1, 3, 5, 7, 11, 9, 10, 4, 2]


def tensor_loader(count, augmentation=Augmentation(), **options):  # noqa: B008  frozen
    images = torch.randint(256, (count, 3, 8, 6), dtype=torch.uint8, generator=numbers(1))
    source = TensorSource(images, torch.arange(count) % 2, **options)
    order, normalise = BatchOrder(count, 1, SEED), Normalise([0.5] * 3, [0.2] * 3)
    return source.loader(Reading(order, normalise, augmentation, None, CPU, 0))


def test_the_crops_and_flips_of_a_small_set():
    found = tensor_loader(6, pad=2, flip=True)._moves(EPOCH)
    generator = numbers(MOVES)
    offsets = torch.randint(5, (6, 2), generator=generator)
    assert torch.equal(found, torch.cat([offsets, torch.randint(2, (6, 1), generator=generator)], dim=1))
    assert found.tolist() == [[2, 3, 1], [3, 2, 1], [0, 4, 0], [3, 2, 0], [0, 2, 1], [2, 2, 1]]


def test_the_crops_are_not_drawn_from_the_stream_of_the_order():
    assert not torch.equal(
        tensor_loader(40, pad=2)._moves(EPOCH)[:, :2], torch.randint(5, (40, 2), generator=numbers(ORDER))
    )


def test_the_transforms_of_an_image_of_a_small_set():
    loader = tensor_loader(6, Augmentation(trivial=True))
    place = torch.cat(loader.order.batches(EPOCH)).tolist().index(5)
    found = [batch.images[0] for batch in loader.epoch(EPOCH)][place]
    torch.default_generator.manual_seed(TENSOR_5)
    assert torch.equal(found, loader.normalise(v2.TrivialAugmentWide()(loader.images[5])))


def test_the_crop_of_an_image_of_a_file(image_folder):
    data = load_data(str(image_folder), image_size=16)
    loader = data.train_loader(batch_size=1, seed=SEED, device=CPU, workers=0)
    place = torch.cat(loader.order.batches(EPOCH)).tolist().index(5)
    found = [batch.images[0] for batch in loader.epoch(EPOCH)][place]
    torch.default_generator.manual_seed(IMAGE_5)
    crop = v2.Compose([v2.RandomResizedCrop(16, scale=(0.35, 1.0), antialias=True), v2.RandomHorizontalFlip()])
    assert torch.equal(found, loader.normalise(crop(data.train.decode(5))))


class Pictures:
    """A Dataset of three classes."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        return Image.new("RGB", (8, 8), (index, 0, 0)), index % 3


def test_the_numbers_of_a_datasets_own_transforms(monkeypatch):
    data = data_of_datasets("mine", Pictures(), Pictures())
    item, drawn = dataset.DatasetSource.item, {}
    monkeypatch.setattr(
        dataset.DatasetSource, "item", lambda self, index, seed: drawn.update({index: seed}) or item(self, index, seed)
    )
    train, val = data.loaders(batch_size=4, seed=SEED, device=CPU, workers=0)
    list(train.epoch(EPOCH))
    assert drawn[5] == FILE_5
    list(val.epoch(0))
    assert drawn[5] == VALIDATION_5


def test_the_numbers_of_a_dataloader_of_the_users(monkeypatch):
    seeds, drawn_from = [], dataset._all_drawn_from
    monkeypatch.setattr(dataset, "_all_drawn_from", lambda seed: seeds.append(seed) or drawn_from(seed))
    loader = DataLoader(TensorDataset(torch.rand(4, 3, 8, 6), torch.arange(4)), 2)
    list(dataset.ForeignLoader(loader, device=CPU, seed=SEED).epoch(EPOCH))
    assert seeds == [FOREIGN]


def test_the_images_that_are_held_out():
    data = data_of_datasets("mine", Pictures(), options=FileOptions(val_split=0.25, seed=SEED))
    of_class_1 = torch.arange(1, 24, 3)
    expected = of_class_1[torch.randperm(8, generator=numbers(HELD_OUT_1))[:2]]
    assert {i for i in data.val.indices if i % 3 == 1} == set(expected.tolist())


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_the_mixture_of_a_batch(kind):
    images = torch.rand(4, 3, 8, 6, generator=numbers(1))
    given = Batch(images, torch.arange(4))
    mix = batch_mixer(Augmentation(**{kind: 1.0}), seed=SEED, num_classes=4)
    found = mix(Batch(images.clone(), given.labels), EPOCH, 5)
    transform = v2.RandomChoice([{"mixup": v2.MixUp, "cutmix": v2.CutMix}[kind](alpha=1.0, num_classes=4)])
    expected = {}
    for seed in (BATCH_5, IMAGE_5, TENSOR_5, ORDER):
        torch.default_generator.manual_seed(seed)
        expected[seed] = transform(images.clone(), given.labels)
    assert torch.equal(found.images, expected[BATCH_5][0])
    assert torch.equal(found.labels, expected[BATCH_5][1])
    others = [expected[seed][1] for seed in (IMAGE_5, TENSOR_5, ORDER)]
    assert not any(torch.equal(found.labels, labels) for labels in others)  # so that the lines above can fail


def test_the_images_of_a_subset():
    """They are the same whatever the run's seed: SeedSequence(0), without a key."""
    whole, subset = load_data("digits").train, load_data("digits", train_subset=5).train
    chosen = torch.randperm(1437, generator=numbers(15793235383387715774))[:5].sort().values
    assert chosen.tolist() == [211, 308, 462, 720, 1170]
    assert torch.equal(subset.images, whole.images[chosen])
    assert torch.equal(subset.labels, whole.labels[chosen])


def test_the_numbers_of_a_step():
    reseed(SEED, 5)
    assert torch.initial_seed() == STEP_5
    assert torch.rand(3).tolist() == pytest.approx([0.7349743, 0.2730151, 0.6326264], abs=1e-6)
    reseed(SEED, 5, rank=1)
    assert torch.initial_seed() == STEP_5_OF_RANK_1


def test_no_step_of_a_run_shares_its_numbers_with_a_neighbour():
    seeds = set()
    for seed in range(3):
        for step in range(3):
            for rank in range(3):
                reseed(seed, step, rank)
                seeds.add(torch.initial_seed())
    assert len(seeds) == 27


def test_a_run_draws_each_steps_numbers_from_its_own_seed(tmp_path):
    model, seen = toy_net(), []
    model.head.register_forward_hook(lambda module, *_: seen.append(torch.initial_seed()) if module.training else None)
    config = toy_config(epochs=2, seed=SEED)
    fit(model, MemoryLoader(), val_loader(), config=config, out=tmp_path, meta={}, progress=False)
    state = [np.random.SeedSequence([SEED, step, 0]).generate_state(1, np.uint64)[0] for step in range(8)]
    assert seen == [int(value) for value in state]
    assert seen[5] == STEP_5
