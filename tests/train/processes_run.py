"""A run of several processes: python processes_run.py OUT CONFIG, the latter JSON; "resume" and "pause" among it."""

import json
import os
import sys
import time
from functools import partial
from pathlib import Path

from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from train.toy import MemoryLoader, toy_config, toy_net, val_loader

from attnconv import SimpleSelfAttention
from attnconv.signals import leave
from attnconv.train.device import fabric_of
from attnconv.train.fit import fit

TAKEN = ("conv.weight",)  # as if init_from had brought it


class Slow(MemoryLoader):
    pause = 0.0  # seconds before each batch

    def epoch(self, epoch, start=0):
        for batch in super().epoch(epoch, start):
            time.sleep(self.pause)
            yield batch


if __name__ == "__main__":
    out, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    resume, pause, norm = options.pop("resume", False), options.pop("pause", 0.0), options.pop("norm", "group")
    attention = options.pop("attention", False)
    config = toy_config(**options)
    fabric = fabric_of(config)
    out.with_name(f"{out.name}-pid-{fabric.global_rank}").write_text(str(os.getpid()))
    net = toy_net() if norm == "batch" else toy_net(dropout=0.0, norm=partial(nn.GroupNorm, 2))
    if attention:
        net = nn.Sequential(SimpleSelfAttention(3), net)
    train = Slow(count=80, batch_size=config.batch_size)
    val = val_loader(batch_size=4)  # of 21 images the processes have 11 and 10, of the last batch 1 and 0
    train.pause = pause
    for loader in (train, val):
        loader.rank, loader.world = fabric.global_rank, fabric.world_size
    taken = TAKEN if config.freeze_epochs else ()
    result = fit(net, train, val, config=config, out=out, meta={}, taken_over=taken, fabric=fabric, resume=resume)
    if fabric.global_rank == 0:
        print(json.dumps(result))
    leave(0)
