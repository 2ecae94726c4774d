"""A run with everything that makes resuming hard: python killed_run.py FOLDER OUT PROCESSES [resume].

Image files of FOLDER, some of which are none, are decoded and augmented by worker processes and mixed; batch norm and
dropout; averaged weights; gradients in parts; and a loss scaler, which on a CPU nothing but this test asks for.
"""

import sys
import time
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

sys.path.insert(0, str(Path(__file__).parents[1]))

from train.toy import ToyNet

from attnconv.data import Augmentation, load_data
from attnconv.signals import leave
from attnconv.train.config import RunConfig
from attnconv.train.fit import fit


class Slow:
    """A loader that waits before each batch, so that kills come everywhere."""

    def __init__(self, loader):
        self.loader = loader

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def __len__(self):
        return len(self.loader)

    def epoch(self, epoch, start=0):
        for batch in self.loader.epoch(epoch, start):
            time.sleep(0.02)
            yield batch


if __name__ == "__main__":
    folder, out, processes = sys.argv[1:4]
    resume = sys.argv[4:] == ["resume"]
    config = RunConfig(
        model="toy", data=folder, image_size=12, epochs=3, batch_size=6, optimizer="ranger", lr=0.01, device="cpu",
        ema=0.9, accumulate=2, clip=1.0, checkpoint_steps=2, label_smoothing=0.1, skip_bad_images=True, workers=2,
    )  # fmt: skip
    # At first the scale is too large: steps are left out.
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=3)
    plugins = [MixedPrecision("16-mixed", "cpu", scaler)]
    fabric = Fabric(accelerator="cpu", devices=int(processes), strategy="ddp", plugins=plugins)
    fabric.launch()
    data = load_data(folder, image_size=12, skip_bad_images=True)
    train, val = data.loaders(
        batch_size=6, seed=config.seed, device=fabric.device, workers=2,
        augmentation=Augmentation(trivial=True, erasing=0.5, mixup=0.4, cutmix=1.0),
    )  # fmt: skip
    for loader in (train, val):
        loader.order = loader.order.shard(fabric.global_rank, fabric.world_size)
    torch.manual_seed(7 if (Path(out) / "last.pt").exists() else 0)  # all weights have to come from the checkpoint
    fit(ToyNet(), Slow(train), val, config=config, out=Path(out), meta={}, fabric=fabric, resume=resume)
    leave(0)
