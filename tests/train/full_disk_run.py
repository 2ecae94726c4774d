"""A run on a disk that fills up: python full_disk_run.py DISK, an empty small one; JSON of what came of it.

All is looked at here, for the disk may be one that no other process sees.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from train.toy import MemoryLoader, toy_config, toy_net, val_loader

from attnconv.checks import InputError
from attnconv.train.checkpoint import load_checkpoint
from attnconv.train.fit import fit

WIDTH = 3000  # channels: a checkpoint of about 800 kB


def run(out, *, resume=False, faults=None):
    net = toy_net(seed=7 if resume else 0, width=WIDTH)
    loaders = MemoryLoader(count=16, faults=faults), val_loader()
    fit(net, *loaders, config=toy_config(epochs=3), out=out, meta={}, resume=resume, progress=False)


def fill(disk, left):
    """Take all of the disk but ``left`` bytes."""
    free = os.statvfs(disk)
    with open(disk / "full", "wb") as file:
        file.write(bytes(free.f_bavail * free.f_frsize - left))


def fail(out, **options):
    """The error of a run, and what it leaves: names, whole epochs in each checkpoint."""
    try:
        run(out, **options)
    except InputError as error:
        files = sorted(path.name for path in out.iterdir()) if out.exists() else []
        return str(error), files, {name: load_checkpoint(out / name)["epoch"] for name in files if name.endswith(".pt")}
    raise SystemExit("the disk was not full")


if __name__ == "__main__":
    disk = Path(sys.argv[1])
    found = {}
    fill(disk, 100_000)
    found["at once"] = fail(disk / "run")
    (disk / "full").unlink()
    faults = {(1, 1): lambda images: (fill(disk, 100_000), images)[1]}  # in the second epoch
    found["later"] = fail(disk / "run", faults=faults)
    found["again"] = fail(disk / "run", resume=True)
    (disk / "full").unlink()
    run(disk / "run", resume=True)
    state = load_checkpoint(disk / "run" / "last.pt")["model"]
    found["end"] = sorted(path.name for path in (disk / "run").iterdir())
    whole = load_checkpoint(Path(sys.argv[2]))["model"]
    found["same"] = state.keys() == whole.keys() and all(bool((state[name] == whole[name]).all()) for name in whole)
    print(json.dumps(found))
