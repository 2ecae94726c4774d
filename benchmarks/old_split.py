"""Lay out today's edition of Imagewoof or Imagenette in the split before December 2019.

python benchmarks/old_split.py ~/.cache/attnconv/imagewoof2-160 ~/.cache/attnconv/imagewoof-160

Both splits divide the same images. Files called ILSVRC2012_val, 50 a class, were the validation images of the old one,
and all others its training images. Files are linked, or copied where that is not possible; OLD must not be there yet.
"""

import os
import shutil
import sys
from pathlib import Path

VALIDATION = "ILSVRC2012_val"


def lay_out(new: Path, old: Path) -> dict[str, int]:
    """Make the folder ``old`` from ``new``, which has train/<class>/* and val/<class>/*; the images of each part."""
    counts = {"train": 0, "val": 0}
    old.mkdir()
    for file in sorted(new.glob("*/*/*")):
        part = "val" if file.name.startswith(VALIDATION) else "train"
        target = old / part / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, target)
        except OSError:
            shutil.copyfile(file, target)
        counts[part] += 1
    return counts


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(lay_out(Path(sys.argv[1]), Path(sys.argv[2])))
