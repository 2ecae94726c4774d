"""Read files in a process of its own and say what came of each: python read_files.py reader FILES...

``reader`` is the function of attnconv.foreign to read them by; "unsafe" is torch's, which runs what they hold. One line
of JSON a file: the outcome, what was done meanwhile that reading does not need, and how far memory grew, in bytes.
"""

import json
import os
import sys
from pathlib import Path

import torch

from attnconv import checks, foreign

WANTED = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "exec", "compile", "import", "pickle.", "open")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name}:")]
    return 1024 * int(line.split()[1])


def main(reader: str, *names: str) -> None:
    read = {
        "read_state_dict": foreign.read_state_dict,
        "read_plain": lambda name: foreign.read_plain(Path(name)),
        "unsafe": lambda name: torch.load(name, weights_only=False),
    }[reader]
    seen: list[str] = []
    watching = False

    def hook(event: str, args: tuple) -> None:
        if not watching or not event.startswith(WANTED):
            return
        if event != "open" or not isinstance(args[2], int) or args[2] & WRITES:
            seen.append(event)

    torch.save({"w": torch.ones(2)}, first := Path(names[0]).with_name("first.pt"))
    read(str(first))  # which imports what is imported late
    sys.addaudithook(hook)
    for name in names:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = memory("VmRSS")
        seen.clear()
        watching = True
        try:
            found = read(name)
            outcome = "found"
        except checks.InputError as error:
            found, outcome = None, str(error)
        except Exception as error:
            found, outcome = None, f"RAISED {error!r}"
        watching = False
        print(
            json.dumps({"file": name, "outcome": outcome, "seen": seen, "grown": memory("VmHWM") - before}), flush=True
        )
        del found


if __name__ == "__main__":
    main(*sys.argv[1:])
