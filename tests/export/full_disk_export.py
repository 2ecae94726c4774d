"""Exports onto a disk that is full: python full_disk_export.py DISK, an empty small one; JSON of what came of it."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from export.untrained import meta, network

from attnconv import export
from attnconv.checks import InputError

LEFT = 100_000  # bytes, of the megabyte that each file takes


def fill(disk):
    free = os.statvfs(disk)
    with open(disk / "full", "wb") as file:
        file.write(bytes(free.f_bavail * free.f_frsize - LEFT))


if __name__ == "__main__":
    disk, found = Path(sys.argv[1]), {}
    model = network("aa_convnet3", 8)
    for name, suffix in export.SUFFIXES.items():
        path = disk / f"model{suffix}"
        path.write_bytes(b"old")
        fill(disk)
        try:
            export.FORMATS[name](model, path, meta=meta(8))
        except InputError as error:
            found[name] = [str(error), sorted(one.name for one in disk.iterdir()), path.read_bytes().decode()]
        (disk / "full").unlink()
        export.FORMATS[name](model, path, meta=meta(8))
        found[name].append(path.stat().st_size)
        path.unlink()
    print(json.dumps(found))
