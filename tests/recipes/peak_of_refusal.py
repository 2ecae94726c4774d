"""By how many bytes refusing a file raises the peak of memory: python peak_of_refusal.py GOOD BAD."""

import sys
from pathlib import Path


def peak():
    """The most memory that this process has held."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    from attnconv.checks import InputError
    from attnconv.recipes import load_trained

    load_trained(Path(sys.argv[1]), device="cpu")  # which loads what there is to load
    before = peak()
    try:
        load_trained(Path(sys.argv[2]), device="cpu")
    except InputError:
        print(peak() - before)
