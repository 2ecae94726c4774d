"""Relative attention on a CPU in C++, from csrc/: exact, memory linear in the number of positions.

Installing attnconv builds the library if there is a compiler; otherwise `why_not` reports it. ctypes calls the library,
which uses torch only through a pointer to its parallel loop and works in memory that it is given. It computes in
float32. The environment variable ``ATTNCONV_ISA`` selects a narrower instruction set than the widest.
Letters: B batch, N heads, D key / E value channels a head, n length of one axis.
"""

import ctypes
import os
import struct
from collections.abc import Sequence
from ctypes import c_char_p, c_double, c_int32, c_int64, c_void_p
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnconv.kernels.relative_attention import empty_output

LIBRARY = Path(__file__).with_name("native_library.so")
BUILD_ERROR = Path(__file__).with_name("native_build_error.txt")  # the compiler's message, written by setup.py
VERSION = 4  # of the structure below and of the library's functions
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
INSTRUCTION_SETS = ("avx512", "avx2", "baseline")

# Problem of csrc/problem.h: sizes, dtype, scale; ten views of a pointer and six strides; three tables of a pointer, two
# strides and a pointer; workers and a pointer. A structure of ctypes takes four times as long to fill.
_PROBLEM = struct.Struct("@11q d 70q 12q 2q")
_NO_VIEW = (0,) * 7


def _load() -> tuple[Any, c_void_p | None, str]:
    """Return the library, torch's parallel loop and the instruction set; or None, None and a clause: why not."""
    wanted = os.environ.get("ATTNCONV_ISA", "")
    if wanted not in ("", *INSTRUCTION_SETS):
        return None, None, f"ATTNCONV_ISA is {wanted!r}, none of {', '.join(INSTRUCTION_SETS)}"
    if not LIBRARY.exists():
        try:
            why = f": {BUILD_ERROR.read_text().strip()}"
        except OSError:
            why = ""
        return None, None, f"its library was not built{why}; install GCC 12 or Clang 15, or newer, and attnconv again"
    try:
        library = ctypes.CDLL(str(LIBRARY))
        version = library.attnconv_version()
        parallel_for = ctypes.CDLL(torch._C.__file__).torch_parallel_for
    except (OSError, AttributeError) as error:
        return None, None, f"its library does not load here ({' '.join(str(error).split())}); reinstall attnconv"
    if version != VERSION:
        return None, None, "its library is of another version of attnconv; reinstall it"
    library.attnconv_select.argtypes, library.attnconv_select.restype = (c_char_p,), c_char_p
    library.attnconv_workspace_bytes.argtypes = (c_char_p, c_int32)
    library.attnconv_workspace_bytes.restype = c_int64
    for call in (library.attnconv_forward, library.attnconv_backward):
        call.argtypes, call.restype = (c_char_p, c_void_p, c_void_p), c_int32
    library.attnconv_rates.argtypes, library.attnconv_rates.restype = (c_void_p,), None
    taken = library.attnconv_select(wanted.encode())
    if taken is None:
        return None, None, f"ATTNCONV_ISA is {wanted!r}, which this processor lacks"
    return library, ctypes.cast(parallel_for, c_void_p), taken.decode()


# Loaded at import: loading at the first call would break torch.compile(fullgraph=True).
_LIBRARY, _PARALLEL_FOR, _SAID = _load()
INSTRUCTION_SET = _SAID if _LIBRARY is not None else None
MISSING = _SAID if _LIBRARY is None else None  # why there is no library, as a clause


def why_not(*, dtype: torch.dtype, device_type: str) -> str | None:
    """Return why these inputs cannot run, as a clause; None if they can."""
    if device_type != "cpu":
        return f"the device is {device_type}, not cpu"
    if dtype not in DTYPES:
        return f"{dtype} is none of float32, bfloat16, float16"
    return MISSING


def rates() -> tuple[float, float]:
    """Return the multiply-adds and the exponentials per second of one core, measured in loops without memory access.

    Both use the selected instruction set and the kernel's own exponential. They follow the clock of the core, so
    measure them next to what they are compared with; it takes some milliseconds.

    Raises:
        RuntimeError: there is no library.
    """
    if MISSING is not None:
        raise RuntimeError(f"no rates are measured: {MISSING}")
    found = (c_double * 2)()
    _LIBRARY.attnconv_rates(found)
    return found[0], found[1]


def forward(
    q: Tensor, k: Tensor, v: Tensor, rel: Sequence[Tensor], mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Return the output (B, N, *map, E) and the log-sum-exp (B, N, *map) in units of log 2; arguments as "triton"."""
    out, lse = empty_output(q, v), q.new_empty(q.shape[:-1], dtype=torch.float32)
    if v.numel() == 0:
        return out.zero_(), lse.zero_()
    _run(_problem(q, k, v, rel, mask, scale, out, lse), q, backward=False)
    return out, lse


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel: Sequence[Tensor],
    mask: Tensor | None,
    out: Tensor,
    lse: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Return the gradients of q, k, v and the tables from ``grad`` (B, N, *map, E), that of the output."""
    new = torch.empty_like if v.numel() else torch.zeros_like
    grad_q, grad_k, grad_v = new(q), new(k), new(v)
    grad_tables = [new(table, dtype=torch.float32, memory_format=torch.contiguous_format) for table in rel]
    if v.numel():
        grads = (grad, grad_q, grad_k, grad_v, *grad_tables)
        _run(_problem(q, k, v, rel, mask, scale, out, lse, *grads), q, backward=True)
    return grad_q, grad_k, grad_v, [torch.empty_like(table).copy_(g) for g, table in zip(grad_tables, rel, strict=True)]


def _problem(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel: Sequence[Tensor],
    mask: Tensor | None,
    scale: float,
    out: Tensor,
    lse: Tensor,
    *grads: Tensor,
) -> bytes:
    """Pack one call; ``grads`` are none, or those of the output, q, k, v and the tables."""
    batch, heads, *map_size, key_dim = q.shape
    key_size = k.shape[2:-1]
    missing = [1] * (3 - len(map_size))
    sizes = (batch, heads, *missing, *map_size, *[1] * (3 - len(key_size)), *key_size, key_dim, v.shape[-1])
    if mask is None:
        masked = _NO_VIEW
    else:
        masked = _view(mask[:, None, ..., None].expand(*k.shape[:-1], 1))  # stride 0 over heads
    of_grads = [_view(g) for g in grads[:4]] or [_NO_VIEW] * 4
    totals = [g.data_ptr() for g in grads[4:]] or [0] * len(rel)
    tables = [(table.data_ptr(), *table.stride(), total) for table, total in zip(rel, totals, strict=True)]
    return _PROBLEM.pack(
        *sizes,
        DTYPES[q.dtype],
        scale,
        *chain(_view(q), _view(k), _view(v), masked, _view(out), _view(lse, 0), *of_grads),
        *chain([0] * (12 - 4 * len(tables)), *tables),
        torch.get_num_threads(),
        0,
    )


def _view(x: Tensor, *channel: int) -> tuple[int, ...]:
    """Return the pointer and six strides of ``x`` (B, N, *map, channels); ``channel`` is a stride that x lacks."""
    strides = (*x.stride(), *channel)
    return x.data_ptr(), *strides[:2], *[0] * (6 - len(strides)), *strides[2:]


def _run(problem: bytes, like: Tensor, *, backward: bool) -> None:
    workspace = like.new_empty(_LIBRARY.attnconv_workspace_bytes(problem, backward), dtype=torch.uint8)
    call = _LIBRARY.attnconv_backward if backward else _LIBRARY.attnconv_forward
    if call(problem, workspace.data_ptr(), _PARALLEL_FOR) != 0:
        raise RuntimeError("torch could not run the parallel loop of impl='native'")
