"""Static int8 quantisation of an ONNX file, by onnxruntime: convolutions and linear layers in 8 bits, QDQ form.

The products and the softmax of attention stay in float32; its projections are convolutions, and become 8 bits wide.
Letters: B batch, C channels, H rows, W columns.
"""

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnconv import checks
from attnconv.export.agreement import DisagreementError, cases
from attnconv.export.facts import read_facts
from attnconv.export.onnx_file import INPUT, caller, file_of, require_onnx, session
from attnconv.files import replacing

OPERATORS = ("Conv", "Gemm", "MatMul")


def quantise_onnx(source: Path, path: Path, images: Iterable[Tensor]) -> None:
    """Write the network of ``source``, an ONNX file of `export_onnx`, to ``path`` in int8; its metadata are kept.

    Ranges of activations come from ``images``, batches (B, C, H, W) prepared as the network wants them; a hundred or
    two in all suffice. Weights get a scale for each output channel.

    Raises:
        InputError: ``source`` is no such file, there are no images, or no room to write.
        DisagreementError: the result does not run on the sizes that ``source`` takes; nothing is kept.
        MissingExtraError: onnx or onnxruntime is missing.
    """
    onnx = require_onnx()
    quantization = checks.require("onnxruntime.quantization", extra="onnx")
    facts = read_facts(session(source, str(source)).get_modelmeta().custom_metadata_map, str(source))
    assert facts.sizes is not None, "export_onnx writes them"
    batches = _Batches(images)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "int8.onnx"
        proto = onnx.load(source)
        _name_nodes(proto.graph)
        with _silent():
            quantization.quantize_static(
                proto,
                result,
                batches,
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                op_types_to_quantize=list(OPERATORS),
                extra_options={"MatMulConstBOnly": True},  # linear layers, but no product of two activations
            )
        if not batches.count:
            raise checks.InputError("quantisation needs at least one image to calibrate on, got none")
        proto = onnx.load(result)
    with replacing(path) as file:
        file.write(file_of(proto, {**facts.to_texts(), "precision": "int8"}))
        file.flush()
        call = caller(session(Path(file.name), str(path)))
        for batch, rows, columns in cases(facts.sizes, facts.meta["image_size"]):
            try:
                logits = call(torch.randn(batch, facts.meta["channels"], rows, columns))
            except Exception as error:  # of onnxruntime's own kinds
                raise DisagreementError(
                    f"in int8 it fails on {batch} images of {rows} x {columns}: {checks.first_line(error)}"
                ) from error
            if not logits.isfinite().all():
                raise DisagreementError(f"in int8 it gives numbers that are not finite for {rows} x {columns} images")


class _Batches:
    """What onnxruntime wants of calibration data: ``get_next`` gives a batch, and None at the end."""

    def __init__(self, images: Iterable[Tensor]) -> None:
        self._images: Iterator[Tensor] = iter(images)
        self.count = 0

    def get_next(self) -> dict[str, Any] | None:
        for batch in self._images:
            if len(batch):
                self.count += len(batch)
                return {INPUT: batch.detach().cpu().contiguous().numpy()}
        return None


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """In which the quantiser, which writes to the root logger, gives no advice."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _name_nodes(graph: Any) -> None:
    """Give each node a name, which the quantiser goes by."""
    for number, node in enumerate(graph.node):
        node.name = node.name or f"node_{number}"
