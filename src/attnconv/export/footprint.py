"""A program: load an exported network, run it once, and print the most memory that the process held, in bytes.

Run as a file, so that what serves an ONNX file here, onnxruntime and numpy, is all that is loaded for one.
"""

import sys
from pathlib import Path


def main(kind: str, file: str, shape: str, threads: str) -> None:
    size = [int(n) for n in shape.split("x")]
    if Path(file).suffix == ".onnx":
        _run_onnx(file, size, int(threads))
    else:
        _run_torch(kind, file, size, int(threads))
    print(_peak())


def _run_onnx(file: str, size: list[int], threads: int) -> None:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    session.run(None, {session.get_inputs()[0].name: np.zeros(size, dtype=np.float32)})


def _run_torch(kind: str, file: str, size: list[int], threads: int) -> None:
    import torch

    from attnconv.export import load_exported

    torch.set_num_threads(threads)
    model = load_exported(Path(file), trust=True).model  # just written by the process that asks
    if kind == "compile":
        model = torch.compile(model)
    with torch.no_grad():
        model(torch.zeros(size))


def _peak() -> int:
    """Of this program alone: what getrusage says begins with the memory of the process that started it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise SystemExit("the system does not say")


if __name__ == "__main__":
    main(*sys.argv[1:])
