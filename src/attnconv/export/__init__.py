"""Export networks as ONNX and torch.export programs, which are compared with PyTorch before they are kept.

onnx, onnxscript and onnxruntime are imported where they are used. `attnconv.models.saved` writes the saved form.
"""

from pathlib import Path

from attnconv import checks
from attnconv.export.capture import Difference, DisagreementError, Written
from attnconv.export.network import ExportedNetwork
from attnconv.export.onnx_file import export_onnx, load_onnx
from attnconv.export.program_file import export_program, load_program
from attnconv.models.image_sizes import Sizes

# Suffix, writer and reader of each format; ``trust`` is as in `load_program`.
FORMS = {
    "onnx": (".onnx", export_onnx, lambda path, *, trust: load_onnx(path)),
    "torch": (".pt2", export_program, load_program),
}
FORMATS = {name: write for name, (_, write, _) in FORMS.items()}
SUFFIXES = {name: suffix for name, (suffix, _, _) in FORMS.items()}

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "Difference",
    "DisagreementError",
    "ExportedNetwork",
    "Sizes",
    "Written",
    "export_onnx",
    "export_program",
    "is_exported",
    "load_exported",
    "load_onnx",
    "load_program",
]


def is_exported(path: str | Path) -> bool:
    """True if ``path`` has the suffix of an exported network."""
    return Path(path).suffix in SUFFIXES.values()


def load_exported(path: str | Path, *, trust: bool = False) -> ExportedNetwork:
    """Return the network in ``path``, an ONNX or .pt2 file; ``trust`` is as in `load_program`.

    Raises:
        InputError: as `load_onnx` and `load_program`, or the suffix is another one.
    """
    readers = {suffix: read for suffix, _, read in FORMS.values()}
    suffix = checks.one_of("suffix of an exported network", Path(path).suffix, readers)
    return readers[suffix](path, trust=trust)
