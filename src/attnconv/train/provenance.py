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
    """The commit checked out at ``root``, and "-dirty" if files differ from it; None if ``root`` is no checkout's top.

    A package installed in an environment somewhere inside a checkout of another project is not of that one's commit.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return None
    return _git(root, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")  # by its hash, never by a tag


def _git(root: Path, *words: str) -> str | None:
    """What git prints, None if it fails."""
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.rstrip("\n")
