"""A network, a problem and a loader, all small, that the training tests share."""

import torch
from torch import nn

from attnconv.train.config import RunConfig

CLASSES = 3


class ToyNet(nn.Module):
    """Everything that makes resuming hard: batch norm's statistics and dropout; a parameter of two axes of its own."""

    def __init__(self, classes=CLASSES, width=4, dropout=0.3, norm=nn.BatchNorm2d):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = norm(width)
        self.key_rel_w = nn.Parameter(torch.zeros(width, 2))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu().mean((2, 3)) + self.key_rel_w.sum(1)
        return self.head(self.dropout(x))


def toy_net(seed=0, **options):
    torch.manual_seed(seed)
    return ToyNet(**options)


class MemoryLoader:
    """Images (B, 3, 5, 7), of which channel k is the brightest in class k; the last batch is smaller.

    faults maps (epoch, batch) to an exception that is raised, once, instead of giving that batch, or to a function
    of the images.
    """

    def __init__(self, count=30, batch_size=8, shuffle=True, seed=0, faults=None):
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(count) % CLASSES
        self.images = torch.randn(count, 3, 5, 7, generator=generator)
        self.images[torch.arange(count), self.labels] += 1.5
        self.batch_size, self.shuffle, self.faults = batch_size, shuffle, faults or {}
        self.skipped = []
        self.rank, self.world = 0, 1  # of several processes, each has every so-manieth image of a batch
        self.num_samples = count

    def __len__(self):
        return -(-self.num_samples // self.batch_size)

    def epoch(self, epoch, start=0):
        order = torch.arange(self.num_samples)
        if self.shuffle:
            order = torch.randperm(self.num_samples, generator=torch.Generator().manual_seed(epoch))
        for batch, rows in enumerate(order.split(self.batch_size)):
            if batch < start:
                continue
            rows = rows[self.rank :: self.world]
            images = self.images[rows]
            fault = self.faults.get((epoch, batch))
            if isinstance(fault, BaseException):
                del self.faults[epoch, batch]
                raise fault
            images = fault(images) if fault else images
            yield images, self.labels[rows][: len(images)]


def val_loader(**options):
    return MemoryLoader(count=21, shuffle=False, seed=1, **options)


def toy_config(**options):
    return RunConfig(**{"epochs": 3, "batch_size": 8, "lr": 0.05, "device": "cpu", **options})
