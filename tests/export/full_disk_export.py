"""An export onto a full disk: python full_disk_export.py DISK FORMAT, an empty small one; JSON of what came of it."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from export.untrained import meta, network

from attnconv import export
from attnconv.checks import InputError

LEFT = 100_000  # bytes, of the half megabyte and more that a file takes


def fill(disk):
    free = os.statvfs(disk)
    with open(disk / "full", "wb") as file:
        file.write(bytes(free.f_bavail * free.f_frsize - LEFT))


if __name__ == "__main__":
    disk, form = Path(sys.argv[1]), sys.argv[2]
    model, path = network("convnet3", 8), disk / f"model{export.SUFFIXES[form]}"
    assert sum(4 * p.numel() for p in model.parameters()) > 5 * LEFT
    path.write_bytes(b"old")
    fill(disk)
    try:
        export.FORMATS[form](model, path, meta=meta(8))
    except InputError as error:
        print(json.dumps([str(error), sorted(one.name for one in disk.iterdir()), path.read_bytes().decode()]))
