"""Networks as files for others to run: ONNX, torch.export and safetensors; each proves that its answers agree.

onnx, onnxscript, onnxruntime and safetensors are imported where they are used.
"""

from attnconv.export.agreement import Difference, DisagreementError
from attnconv.export.facts import Facts
from attnconv.export.load import SUFFIXES, is_exported, load_exported
from attnconv.export.network import Exported, ExportedNetwork
from attnconv.export.onnx_file import export_onnx, load_onnx
from attnconv.export.program_file import export_program, load_program
from attnconv.export.weights_file import export_weights, load_network, load_weights, save_weights
from attnconv.export.written import Written
from attnconv.models.fold import folded
from attnconv.models.image_sizes import Sizes

FORMATS = {"onnx": export_onnx, "torch": export_program, "safetensors": export_weights}

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "Difference",
    "DisagreementError",
    "Exported",
    "ExportedNetwork",
    "Facts",
    "Sizes",
    "Written",
    "export_onnx",
    "export_program",
    "export_weights",
    "folded",
    "is_exported",
    "load_exported",
    "load_network",
    "load_onnx",
    "load_program",
    "load_weights",
    "save_weights",
]
