"""Relative attention as one GPU program over tiles of queries and keys: exact, memory linear in the positions.

The forward pass keeps only the log-sum-exp of each query; the backward pass recomputes the weights from it. Its sums
have a fixed order, so gradients are reproducible.
Letters: B batch, N heads, A planes, H lines (rows), W columns of the map (missing axes have length 1); D key / E value
channels a head; n length of one axis; P programs of the backward pass.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from attnconv.kernels.relative_attention import empty_output

# Wider heads do not fit the registers.
MAX_HEAD_DIM = {torch.float32: 128, torch.bfloat16: 256, torch.float16: 256}
MAX_SPLITS = 8
INSTALLED = importlib.util.find_spec("triton") is not None
GROUP = 16  # lines whose position terms are computed at a time


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Tile sizes, powers of two: rows x columns queries and lines x key_columns keys, at least 16 each.

    A program takes ``channels`` of v at a time; lines are at most 16.
    """

    rows: int
    columns: int
    lines: int
    key_columns: int
    channels: int
    num_warps: int = 4
    num_stages: int = 2


def why_not(
    *, head_dim: int, dtype: torch.dtype, device_type: str, capability: tuple[int, int] | None = None
) -> str | None:
    """Return why this kernel cannot run, as a clause; None if it can. ``capability`` defaults to the current GPU's."""
    if not INSTALLED:
        return "triton is not installed"
    if device_type != "cuda" and not (device_type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return f"the device is {device_type}, not cuda"
    if torch.version.hip is not None:
        return "it is untested on AMD GPUs"
    if dtype not in MAX_HEAD_DIM:
        return f"{dtype} is none of float32, bfloat16, float16"
    if head_dim > MAX_HEAD_DIM[dtype]:
        return f"head dim {head_dim} is above {MAX_HEAD_DIM[dtype]}" + (" in float32" if dtype == torch.float32 else "")
    if device_type == "cuda":
        capability = capability or _capability()
        if capability < (8, 0):
            return f"compute capability {capability[0]}.{capability[1]} is below 8.0"
    return None


@torch.compiler.assume_constant_result
def _capability() -> tuple[int, int]:
    return torch.cuda.get_device_capability()


def choose_blocks(
    map_size: tuple[int, int, int],
    head_dim: int,
    value_dim: int,
    dtype: torch.dtype,
    *,
    backward: bool,
    key_map: tuple[int, int, int] | None = None,
) -> Blocks:
    """Return the largest tiles whose inner loops fit the registers, as the compiler reports for Hopper."""
    _, height, width = map_size
    _, key_height, key_width = key_map or map_size
    single = dtype == torch.float32
    channels = min(64 if single else 128, max(16, _power(value_dim)))
    widest = max(_power(head_dim), channels)
    if single:
        queries, keys, warps = (32, 32, 4) if widest <= 64 else (16, 32, 4) if backward else (32, 32, 8)
    elif not backward:
        queries, keys, warps = (64, 64, 4) if widest <= 64 else (64, 64, 8) if widest <= 128 else (64, 32, 8)
    elif widest <= 64:
        queries, keys, warps = 64, 64 if widest <= 32 else 32, 4
    else:
        queries, keys, warps = (64, 32, 8) if widest <= 128 else (32, 16, 8)
    if height == 1:  # every tile of keys has its own column terms
        queries = min(queries, 32)

    key_columns = _step(key_width, keys)
    lines = max(16 // key_columns, min(keys // key_columns, _power(key_height)))
    columns = _step(width, min(queries, 32) if backward else queries)  # a longer window would not fit the registers
    rows = min(queries // columns, _power(height))
    columns = max(columns, 16 // rows)
    return Blocks(rows, columns, lines, key_columns, channels, warps)


def _step(n: int, most: int) -> int:
    """Return the largest power of two, at most ``most``, whose steps exceed n little more than steps of 16."""
    if n <= 16:
        return min(max(4, _power(n)), most)
    step = min(most, _power(n))
    while step > 16 and -(-n // step) * step > 1.25 * (-(-n // 16) * 16):
        step //= 2
    return step


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel: Sequence[Tensor],
    mask: Tensor | None,
    scale: float,
    *,
    blocks: Blocks | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the output (B, N, *map, E), with memory layout (B, *map, N, E), and the log-sum-exp (B, N, *map).

    Args:
        q: (B, N, *map, D).
        k: (B, N, *key map, D).
        v: (B, N, *key map, E).
        rel: empty, or one table (2n - 1, D) per axis.
        mask: None or (B, *key map), with a True in each image.
        scale: factor of the logits.
        blocks: tile sizes; chosen if None.
    """
    from attnconv.kernels.relative_attention import triton_programs

    batch, heads = q.shape[:2]
    out = empty_output(q, v)
    lse = q.new_empty(q.shape[:-1], dtype=torch.float32)
    if lse.numel() == 0:
        return out, lse
    blocks = blocks or choose_blocks(_map3(q), q.shape[-1], v.shape[-1], q.dtype, backward=False, key_map=_map3(k))
    shared = _arguments(q, v, rel, mask, scale, blocks)
    a, h, w = _map3(q)
    tiles = a * -(-h // blocks.rows) * -(-w // blocks.columns)
    program: Any = triton_programs.forward
    with _on_device_of(q):
        program[(batch * heads * tiles * shared["CHUNKS"],)](
            q, k, v, *_tables3(rel, q), _bytes(mask, q), out, lse, _magnitude(scale) * math.log2(math.e),
            *_strides(q), *_strides(k), *_strides(v), heads, a, h, w, *_map3(k), **shared,
        )  # fmt: skip
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
    *,
    blocks: Blocks | None = None,
    splits: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Return the gradients of q, k, v and the tables from ``grad`` (B, N, *map, E), that of the output.

    ``splits`` programs share the queries of a head; each has its own sums.
    """
    from attnconv.kernels.relative_attention import triton_programs

    grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    if lse.numel() == 0:
        return grad_q, grad_k, grad_v, [torch.zeros_like(table) for table in rel]
    batch, heads, *key_map, head_dim = k.shape
    blocks = blocks or choose_blocks(_map3(q), head_dim, v.shape[-1], q.dtype, backward=True, key_map=_map3(k))
    a, h, w = _map3(q)
    tiles = a * -(-h // blocks.rows) * -(-w // blocks.columns)
    if splits is None:
        processors = torch.cuda.get_device_properties(q.device).multi_processor_count if q.is_cuda else 1
        splits = max(1, min(2 * processors // (batch * heads), tiles, MAX_SPLITS))
    splits = -(-tiles // -(-tiles // splits))  # every program gets a tile: its sums are uninitialised
    programs = batch * heads * splits
    sum_k = q.new_empty(batch, heads, splits, *key_map, head_dim, dtype=torch.float32)
    sum_v = q.new_empty(batch, heads, splits, *key_map, v.shape[-1], dtype=torch.float32)
    sum_tables = [q.new_zeros(programs, *table.shape, dtype=torch.float32) for table in rel]
    magnitude = _magnitude(scale)
    program: Any = triton_programs.backward
    with _on_device_of(q):
        program[(programs,)](
            _heads_last(grad), q, k, v, *_tables3(rel, q), _bytes(mask, q), _heads_last(out), lse,
            grad_q, sum_k, sum_v, *_tables3(sum_tables, sum_k), float(scale), magnitude * math.log2(math.e),
            *_strides(q), *_strides(k), *_strides(v), *_strides(grad_q), heads, a, h, w, *_map3(k),
            splits, **_arguments(q, v, rel, mask, scale, blocks),
        )  # fmt: skip
    grad_k.copy_(sum_k.sum(2).mul_(magnitude))
    grad_v.copy_(sum_v.sum(2))
    grad_tables = [
        torch.empty_like(table).copy_(sums.sum(0).mul_(magnitude)) for sums, table in zip(sum_tables, rel, strict=True)
    ]
    return grad_q, grad_k, grad_v, grad_tables


def _arguments(
    q: Tensor, v: Tensor, rel: Sequence[Tensor], mask: Tensor | None, scale: float, blocks: Blocks
) -> dict[str, Any]:
    """Return the compile-time constants of both programs."""
    # Three products on tensor cores are as exact as float32 units, whose tiles do not fit the registers.
    precision = "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"
    return {
        "D": q.shape[-1],
        "E": v.shape[-1],
        "BLOCK_D": max(16, _power(q.shape[-1])),
        "BLOCK_E": blocks.channels,
        "CHUNKS": max(1, -(-v.shape[-1] // blocks.channels)),
        "TABLES": len(rel),
        "MASKED": mask is not None,
        "SIGN": (scale > 0) - (scale < 0),
        "PRECISION": precision if q.dtype == torch.float32 else "ieee",
        "ROWS": blocks.rows,
        "COLUMNS": blocks.columns,
        "LINES": blocks.lines,
        "KEY_COLUMNS": blocks.key_columns,
        "GROUP": GROUP,
        "LINE_WINDOW": _power(blocks.rows + GROUP - 1),
        "COLUMN_WINDOW": max(16, _power(blocks.columns + blocks.key_columns - 1)),
        "num_warps": blocks.num_warps,
        "num_stages": blocks.num_stages,
        "enable_fp_fusion": True,  # of a product and a sum; Triton's default changes
    }


def _map3(x: Tensor) -> tuple[int, int, int]:
    """Return A, H, W."""
    a, h, w = (1, 1, *x.shape[2:-1])[-3:]
    return a, h, w


def _strides(x: Tensor) -> tuple[int, ...]:
    """Return the strides of b, n, a, h, w and the channels, 0 for missing axes."""
    b, n, *places, channel = x.stride()
    return b, n, *((0, 0, *places)[-3:]), channel


def _tables3(rel: Sequence[Tensor], q: Tensor) -> tuple[Tensor, ...]:
    """Return a table per axis; q is a placeholder for missing ones, which are not read."""
    return (q, q, *(table.contiguous() for table in rel))[-3:] if rel else (q, q, q)


def _bytes(mask: Tensor | None, q: Tensor) -> Tensor:
    """Return the contiguous mask as bytes; q is a placeholder without a mask, which is not read."""
    return q if mask is None else mask.contiguous().view(torch.uint8)


def _heads_last(x: Tensor) -> Tensor:
    """Return x (B, N, *map, E) as contiguous (B, *map, N, E)."""
    return x.movedim(1, -2).contiguous()


def _magnitude(scale: float) -> float:
    """Return |scale|, the factor of the logits after q takes the sign of ``scale``; 1 if the scale is 0."""
    return abs(scale) or 1.0


def _power(n: int) -> int:
    """Return the smallest power of two that is at least n."""
    return 1 << max(n - 1, 0).bit_length()


def _on_device_of(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
