"""Networks as programs of torch.export, .pt2 files: compared with PyTorch before they are kept, and read back.

Reading a .pt2 file can run code from it: torch unpickles constants, compiles guards and has SymPy evaluate sizes. So a
file is read only if the caller trusts its maker. An export trusts the file that it has just written.

Letters: B batch, C channels, H rows, W columns.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from attnconv import checks, files
from attnconv.export import capture
from attnconv.export.capture import Written
from attnconv.export.network import KEY, ExportedNetwork, read_config
from attnconv.files import append_checksum, verify_checksum
from attnconv.weights import unfit


def export_program(
    model: nn.Module,
    path: str | Path,
    *,
    meta: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    image_size: int | tuple[int, int] | None = None,
    tell: Callable[[str], object] | None = None,
) -> Written:
    """Write ``model`` as a program of torch.export; arguments, checks and config (an extra file) as `export_onnx`.

    Raises:
        InputError: as `export_onnx`.
        DisagreementError: the answers differ; nothing is kept.
    """
    path, config = Path(path), capture.described(model, meta, provenance, image_size)
    return capture.write_checked(
        model,
        path,
        config,
        what="the program",
        write=_write,
        caller=lambda file: _caller(_load(file, str(path))[0]),
        tell=tell,
    )


def _write(file: BinaryIO, program: ExportedProgram, text: str) -> tuple[str, ...]:
    # Keep the ranges of sizes as the only condition on images. torch also guards against each size of 1 that it has
    # looked at, such as a batch of one image, although the program is right for it, as the comparison shows. These
    # guards have no public switch.
    program._guards_code = []
    # In memory first: on a full disk torch's writer aborts the process.
    whole = io.BytesIO()
    torch.export.save(program, whole, extra_files={KEY: text})
    file.write(whole.getbuffer())
    append_checksum(file)
    return ()


def load_program(path: str | Path, *, trust: bool = False) -> ExportedNetwork:
    """Return the network of a .pt2 file of `export_program`, on the CPU.

    Args:
        path: the file.
        trust: read it although that can run code from it; only for files whose makers you trust.
    Raises:
        InputError: without ``trust``; the file is missing, damaged, or not of `attnconv export`.
    """
    path = Path(path)
    if not path.exists():
        raise checks.InputError(f"no exported program at {path}")
    if not checks.flag("trust", trust):
        raise checks.InputError(
            f"{path} is a program of torch.export, and reading one can run code that is in it: it is read only with "
            "--trust (of evaluate and predict; trust=True in Python), for files whose makers you trust"
        )
    program, text = _load(path, str(path))
    config, sizes = read_config(text, str(path))
    network = ExportedNetwork(_caller(program), config, sizes, source=str(path), widths=_widths(program, str(path)))
    if not verify_checksum(path):
        raise checks.InputError(f"{path} has lost its checksum: another program has written it anew")
    return network


def _widths(program: ExportedProgram, source: str) -> tuple[object, object]:
    """Return the channels of images and logits; InputError unless each is one tensor and the weights are finite."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    names = (*program.graph_signature.user_inputs, *program.graph_signature.user_outputs)
    found = [values.get(str(name)) for name in names]
    shapes = [tuple(value.shape) for value in found if isinstance(value, Tensor) and value.ndim >= 2]
    if len(names) != 2 or len(shapes) != 2:
        raise checks.InputError(f"{source} is no network of images: it must take one tensor and give one")
    if problem := unfit(program.state_dict, program.state_dict):
        raise checks.InputError(f"{source} is damaged: {problem}")
    return shapes[0][1], shapes[1][1]


def _caller(program: ExportedProgram) -> Callable[[Tensor], Tensor]:
    module = program.module()  # which refuses eval(), so that it must not be a submodule of anything
    return lambda images: module(images)


def _load(path: Path, source: str) -> tuple[ExportedProgram, str]:
    """Return the program and its config's text, "" if it has none."""
    texts: dict[str, Any] = {KEY: ""}  # torch fills it in
    with checks.explained(f"{source} is damaged or no program of torch.export"):  # it can raise nearly anything
        verify_checksum(path)
        with files.opened(path, at_most=files.WEIGHTS) as file, _silent():
            program = torch.export.load(file, extra_files=texts)
    return program, texts[KEY]


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Silence torch's export: our message says what is wrong with a file."""
    logger = logging.getLogger("torch.export")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
