"""The network of any file of `attnconv export`, by its suffix."""

from pathlib import Path

from attnconv import checks
from attnconv.export.network import Exported
from attnconv.export.onnx_file import load_onnx
from attnconv.export.program_file import load_program
from attnconv.export.weights_file import load_network

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}  # of each format
_PROGRAM = ".pt2"
_LOADERS = {".onnx": load_onnx, _PROGRAM: load_program, ".safetensors": load_network}


def is_exported(path: str | Path) -> bool:
    """Whether ``path`` is named as exported networks are."""
    return Path(path).suffix in _LOADERS


def load_exported(path: str | Path, *, trust: bool = False) -> Exported:
    """Return the network in ``path``, in eval mode on the CPU, and the facts about it.

    Args:
        path: the file.
        trust: read a .pt2 file too, which can run code that is in it; no other file runs any.
    Raises:
        InputError: the file is missing, damaged or changed, not of `attnconv export`, of an unknown suffix, or a .pt2
            file without ``trust``.
    """
    path = Path(path)
    load = _LOADERS[checks.one_of("suffix of an exported network", path.suffix, _LOADERS)]
    return load_program(path, trust=trust) if path.suffix == _PROGRAM else load(path)
