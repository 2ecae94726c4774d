"""What a result says about where it came from: versions, commit, device."""

import subprocess
from pathlib import Path

import torch

from attnconv import __version__

# The checkout's root, if the package lies in one as this file does: <root>/src/attnconv/train/provenance.py
ROOT = Path(__file__).resolve().parents[3]


def provenance(device: torch.device) -> dict[str, str | None]:
    """The device by name, the versions of torch and attnconv, and the commit, None outside a checkout."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "attnconv": __version__,
        "commit": commit(ROOT),
    }


def commit(root: Path) -> str | None:
    """The commit that is checked out at ``root``; None if ``root`` is not itself the top of a git checkout.

    A package installed in an environment somewhere inside a checkout of another project is not of that one's commit.
    """
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--show-toplevel", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    top, head = answer.stdout.splitlines()
    return head if Path(top).resolve() == root.resolve() else None
