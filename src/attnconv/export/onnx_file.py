"""Networks as ONNX files: written by torch's exporter, compared in onnxruntime before they are kept, read back.

Letters: B batch, C channels, H rows, W columns.
"""

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from attnconv import checks, files
from attnconv.export import capture
from attnconv.export.capture import Written
from attnconv.export.network import KEY, ExportedNetwork, read_config

INPUT, OUTPUT = "images", "logits"
AXES = ("batch", "channels", "rows", "columns")
CHECKSUM = "attnconv_sha256"  # of all bytes before it; the last of the metadata
END = 2 + (2 + len(CHECKSUM)) + (2 + 64)  # its bytes: a field of two texts, each after its kind and its length


def export_onnx(
    model: nn.Module,
    path: str | Path,
    *,
    meta: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    image_size: int | tuple[int, int] | None = None,
    tell: Callable[[str], object] | None = None,
) -> Written:
    """Write ``model`` as ONNX if onnxruntime gives PyTorch's outputs for three batches and, where free, three sizes.

    The batch is free, and so are rows and columns up to the size that the position tables cover. Spectral norm becomes
    plain weights. The file's metadata hold the network's config: see `attnconv.export.network`.

    Args:
        model: (B, C, H, W) -> logits, on the CPU; left unchanged.
        path: the file, ending in .onnx.
        meta: facts of its images: classes, channels, image_size, mean, std, resize_ratio; by default the network's.
        provenance: of its training, plain values; by default the network's.
        image_size: side, or rows and columns, of prepared images in pixels; by default meta's.
        tell: called with the name of each stage as it begins.
    Raises:
        InputError: a kernel that cannot be exported, tables that do not cover ``image_size``, meta that does not fit
            the network, or no room to write.
        DisagreementError: the answers differ; nothing is kept.
        MissingExtraError: onnx, onnxscript or onnxruntime is missing.
    """
    require_onnx()
    path, config = Path(path), capture.described(model, meta, provenance, image_size)
    return capture.write_checked(
        model,
        path,
        config,
        what="the ONNX file",
        write=_write,
        caller=lambda file: caller(session(file, str(path))),
        tell=tell,
    )


def _write(file: BinaryIO, program: ExportedProgram, text: str) -> tuple[str, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Given a captured program, the exporter does not try other ways to capture it, which compile for minutes.
        made = torch.onnx.export(program, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False)
    assert made is not None
    proto = made.model_proto
    name_axes(proto.graph)
    for node in proto.graph.node:
        del node.metadata_props[:]  # places in our code and in this machine's folders
    file.write(file_of(proto, text))
    return (f"opset {proto.opset_import[0].version}",)


def load_onnx(path: str | Path) -> ExportedNetwork:
    """Return the network of an ONNX file of `export_onnx`, run by onnxruntime on the CPU.

    Raises:
        InputError: the file is missing, damaged or changed, or not of `attnconv export`.
    """
    checks.require("onnxruntime", extra="onnx")
    path = Path(path)
    found = session(path, str(path))
    texts = found.get_modelmeta().custom_metadata_map
    config, sizes = read_config(texts.get(KEY, ""), str(path))
    network = ExportedNetwork(caller(found), config, sizes, source=str(path), widths=_widths(found, str(path)))
    checksum = texts.get(CHECKSUM, "").encode()
    data = files.read_bytes(path, at_most=files.WEIGHTS)
    if not data.endswith(checksum) or hashlib.sha256(data[:-END]).hexdigest().encode() != checksum:
        raise files.changed(path)
    return network


def file_of(proto: Any, text: str) -> bytes:
    """Return the bytes of a file with the model ``proto``, its config ``text`` and, at the end, a checksum."""
    onnx = require_onnx()
    onnx.helper.set_model_props(proto, {KEY: text})
    data, end = proto.SerializeToString(), onnx.ModelProto()
    onnx.helper.set_model_props(end, {CHECKSUM: hashlib.sha256(data).hexdigest()})
    return data + end.SerializeToString()  # two serialised pieces in a row are one model


def require_onnx() -> Any:
    """Return the package onnx; MissingExtraError if it, onnxscript or onnxruntime is missing."""
    for package in ("onnxscript", "onnxruntime"):
        checks.require(package, extra="onnx")
    return checks.require("onnx", extra="onnx")


def session(path: Path, source: str) -> Any:
    """Return a silent onnxruntime session of a file on the CPU; InputError, naming ``source``, if it cannot be read."""
    import onnxruntime

    try:
        files.require(path, at_most=files.WEIGHTS)
    except OSError:
        raise checks.InputError(f"no ONNX file at {source}") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    with checks.explained(f"{source} is damaged or no ONNX file"):  # onnxruntime's errors share no base
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _widths(found: Any, source: str) -> tuple[object, object]:
    """Return the channels of images and logits of a session; InputError unless each is one tensor of float32."""
    values = [*found.get_inputs(), *found.get_outputs()]
    if [value.type for value in values] != ["tensor(float)"] * 2 or any(len(value.shape) < 2 for value in values):
        raise checks.InputError(f"{source} is no network of images: it must take one tensor of float32 and give one")
    return values[0].shape[1], values[1].shape[1]


def caller(found: Any) -> Callable[[Tensor], Tensor]:
    """Return a function that runs ``found``, a session with one input: (B, C, H, W) -> logits."""
    name = found.get_inputs()[0].name

    def call(images: Tensor) -> Tensor:
        (logits,) = found.run(None, {name: images.detach().cpu().contiguous().numpy()})
        return torch.from_numpy(logits)

    return call


def name_axes(graph: Any) -> None:
    """Name the free axes batch, rows and columns, which the exporter has numbered, in every shape of ``graph``."""
    shape = graph.input[0].type.tensor_type.shape.dim
    names = {dim.dim_param: name for dim, name in zip(shape, AXES, strict=True) if dim.dim_param}
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\b[A-Za-z_]\w*\b", lambda word: names.get(word[0], word[0]), dim.dim_param)
