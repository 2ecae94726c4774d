"""The network of any file of `attnconv export`, by its suffix."""

from pathlib import Path

from attnconv import checks
from attnconv.export.network import Exported
from attnconv.export.onnx_file import load_onnx
from attnconv.export.program_file import load_program
from attnconv.export.weights_file import load_network

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}  # of each format
_LOADERS = {".onnx": load_onnx, ".pt2": load_program, ".safetensors": load_network}


def is_exported(path: str | Path) -> bool:
    """Whether ``path`` is named as exported networks are."""
    return Path(path).suffix in _LOADERS


def load_exported(path: str | Path) -> Exported:
    """The network in ``path``, in eval mode on the CPU, and the facts about it.

    Raises:
        InputError: the file is missing, damaged or changed, not of `attnconv export`, or of an unknown suffix.
    """
    path = Path(path)
    return _LOADERS[checks.one_of("suffix of an exported network", path.suffix, _LOADERS)](path)
