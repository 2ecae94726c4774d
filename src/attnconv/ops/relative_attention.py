"""Multi-head attention over a map of one, two or three axes, with relative positions along each axis.

Source: Bello et al. 2019, arXiv:1904.09925, section 3.2, extended to any map size and to one or three axes.
Letters: B batch, N heads, D key / E value channels a head, R half the rows of a position table.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from attnconv import checks
from attnconv.kernels import IMPLS
from attnconv.ops.arguments import FLOATS, as_number, require_mask
from attnconv.ops.fused_attention import FUSED, run_fused
from attnconv.ops.kernel_choice import (
    AttentionProblem,
    autocast_dtype,
    autocast_off,
    choose_kernel,
    exporting,
    has_tangent,
    transforming,
    why_not,
)

Tables = Sequence[Tensor | None] | None


def relative_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel: Tables,
    *,
    mask: Tensor | None = None,
    scale: float | Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """Return the softmax attention of every position of a map to every other.

    With positions i, j of the map and one table for each axis a:

        logit(i, j) = scale * q_i . (k_j + sum_a rel_a[j_a - i_a + R_a - 1])
        out_i       = sum_j softmax_j(logit(i, j)) v_j

    Logits and softmax are float32 for half precision inputs. Autocast casts q, k, v and the tables to its dtype first,
    except float64.

    Args:
        q: (B, N, *map, D), a map of 1, 2 or 3 axes.
        k: (B, N, *key map, D). The key map is that of q; without tables it may be any of 1, 2 or 3 axes.
        v: (B, N, *key map, E).
        rel: None, or one table (2*R - 1, D) per axis of the map, with R at least the length of that axis; the middle
            row is distance 0. An axis whose table is None has no position term.
        mask: None, or bool (B, *key map), True at keys that may be attended to. Masked keys and values get weight and
            gradient 0, and must be finite. Queries are not masked; all True equals no mask. An image without any True
            has output and gradients 0.
        scale: factor of the logits; D**-0.5 if None. A tensor of one element is differentiable: it multiplies q and is
            rounded with it.
        impl: "eager" is the formula as it stands and holds the logits of all pairs of positions; "native", C++ on CPUs,
            "blocked" on any device and "triton" on CUDA need memory linear in the positions; "sdpa" folds the position
            terms into torch's fused attention, exports, and rounds them to the dtype of q. "auto" follows the rules of
            `explain_choice`. A named kernel runs or raises. A backward pass that is differentiated again
            (``create_graph=True``) runs as "eager", with its memory.
    Returns:
        (B, N, *map, E), in the dtype of the inputs.
    Raises:
        ValueError: shapes, dtypes or devices do not match, or ``impl`` is unknown or cannot run.
        RuntimeError: torch.func.grad through "native", "blocked" or "triton"; a second derivative through a compiled
            graph, or through "sdpa" on a CPU, where torch has none.
    """
    checks.one_of("impl", impl, IMPLS)
    _check(q, k, v, rel, mask)
    tables = _slice_tables(rel, q)
    q, factor = _scaled(q, scale)
    if (dtype := autocast_dtype(q)) is not None:
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        tables = [table.to(dtype) for table in tables]

    problem = _problem(q, k, v, tables, mask)
    if impl == "auto":
        impl = choose_kernel(problem)
    else:
        _require(impl, problem, has_tangent(q, k, v, *tables))

    keyless, mask = _unmask_keyless(mask)
    with autocast_off(q):
        if impl in FUSED:
            y = run_fused(impl, q, k, v, tables, mask, factor)
        else:
            from attnconv.kernels.relative_attention import eager, sdpa

            y = (eager if impl == "eager" else sdpa).forward(q, k, v, tables, mask, factor)
    return y if keyless is None else torch.where(_per_image(keyless, y.dim()), 0.0, y)


def attention_weights(
    q: Tensor,
    k: Tensor,
    rel: Tables,
    *,
    query: tuple[int, ...],
    mask: Tensor | None = None,
    scale: float | Tensor | None = None,
) -> Tensor:
    """Return the softmax row of the position i = ``query``: the weights of all positions j, with linear memory.

    Args:
        q: (B, N, *map, D), a map of 1, 2 or 3 axes.
        k: (B, N, *key map, D).
        rel: as in `relative_attention`.
        query: a cell of the map of q, one index per axis.
        mask: as in `relative_attention`.
        scale: as in `relative_attention`.
    Returns:
        (B, N, *key map) in float32 or wider; each map sums to 1, or to 0 if the mask leaves an image no key.
    Raises:
        ValueError: ``query`` is not a cell of the map, or shapes, dtypes or devices do not match.
    """
    _check(q, k, k, rel, mask)
    map_size, key_map = tuple(q.shape[2:-1]), k.shape[2:-1]
    if len(query) != len(map_size) or not all(0 <= i < n for i, n in zip(query, map_size, strict=True)):
        raise checks.InputError(f"query must be a cell of the map {map_size}, got {tuple(query)}")
    q, factor = _scaled(q, scale)
    exact = torch.promote_types(q.dtype, torch.float32)
    row = q[(slice(None), slice(None), *query)].to(exact) * factor  # (B, N, D)
    logits = torch.einsum("bnd,bn...d->bn...", row, k.to(exact))  # (B, N, *key map)
    for axis, table in enumerate(_slice_tables(rel, q)):
        n, i = map_size[axis], query[axis]
        term = row @ table[n - 1 - i : 2 * n - 1 - i].to(exact).mT  # (B, N, n): distances -i to n - 1 - i
        own_axis = [1] * len(map_size)
        own_axis[axis] = n
        logits = logits + term.unflatten(-1, own_axis)
    keyless, mask = _unmask_keyless(mask)
    if mask is not None:
        logits = logits.masked_fill(~mask.unsqueeze(1), float("-inf"))
    weights = logits.flatten(2).softmax(dim=-1).unflatten(2, key_map)
    return weights if keyless is None else torch.where(_per_image(keyless, weights.dim()), 0.0, weights)


def _scaled(q: Tensor, scale: float | Tensor | None) -> tuple[Tensor, float]:
    """Return q and the factor of the logits; a differentiated scale multiplies q, and the factor is 1."""
    if scale is None:
        return q, q.shape[-1] ** -0.5
    if isinstance(scale, Tensor) and scale.numel() == 1 and (scale.requires_grad or has_tangent(scale)):
        return q * scale.reshape(()), 1.0
    return q, as_number("scale", scale)


def _unmask_keyless(mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Return the images without a valid key (B,), and a mask where they have all keys: no kernel divides by 0."""
    if mask is None:
        return None, None
    keyless = ~mask.flatten(1).any(dim=1)
    return keyless, mask | _per_image(keyless, mask.dim())


def _per_image(x: Tensor, axes: int) -> Tensor:
    """Return x (B,) as (B, 1, ...)."""
    return x[(slice(None), *[None] * (axes - 1))]


def _problem(q: Tensor, k: Tensor, v: Tensor, tables: list[Tensor], mask: Tensor | None) -> AttentionProblem:
    inputs = (q, k, v, *tables)
    export = None
    if exporting():
        export = "onnx" if torch.onnx.is_in_onnx_export() else "trace" if torch.jit.is_tracing() else "torch"
    # Not compared in an export, where the comparison would fix dynamic sizes.
    own_keys = export is None and len(tables) == 0 and k.shape != q.shape
    return AttentionProblem(
        map_size=tuple(q.shape[2:-1]),
        head_dim=q.shape[-1],
        value_dim=v.shape[-1],
        dtype=q.dtype,
        device_type=q.device.type,
        tables=len(tables) > 0,  # not bool(), which torch 2.11 cannot trace for a list
        needs_grad=torch.is_grad_enabled() and any(t.requires_grad for t in inputs),
        transformed=transforming() or has_tangent(*inputs),
        export=export,
        key_map=tuple(k.shape[2:-1]) if own_keys else None,
    )


def _require(impl: str, problem: AttentionProblem, tangent: bool) -> None:
    """Raise if ``impl`` cannot run, and name a kernel that can."""
    if impl in FUSED and problem.export is not None:
        raise checks.InputError(f"impl={impl!r} cannot be traced or exported; impl='sdpa' and impl='eager' can")
    if impl in FUSED and tangent:  # custom operators silently drop the tangent
        raise RuntimeError(f"impl={impl!r} has no forward-mode derivative; impl='eager' has one")
    if (reason := why_not(impl, replace(problem, transformed=False, export=None))) is not None:
        raise checks.InputError(f"impl={impl!r} cannot run here: {reason}; impl='blocked' can")


def _check(q: Tensor, k: Tensor, v: Tensor, rel: Tables, mask: Tensor | None) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, Tensor):
            raise checks.InputTypeError(f"{name} must be a tensor, got {type(x).__name__}")
        if x.dtype not in FLOATS:
            raise checks.InputTypeError(f"{name} must be floating point, got {x.dtype}")
    if not 4 <= q.dim() <= 6:
        raise checks.InputError(
            f"q must be (batch, heads, *map, channels) with a map of 1, 2 or 3 axes, got {_shape(q)}"
        )
    if rel is not None and any(table is not None for table in rel) and k.shape != q.shape:
        raise checks.InputError(f"with tables k must have the shape of q, got k {_shape(k)} and q {_shape(q)}")
    if not 4 <= k.dim() <= 6 or k.shape[:2] != q.shape[:2] or k.shape[-1] != q.shape[-1]:
        raise checks.InputError(
            f"k must have the batch, heads and channels of q and a map of 1, 2 or 3 axes, "
            f"got k {_shape(k)} and q {_shape(q)}"
        )
    if (0 in k.shape[2:-1]) != (0 in q.shape[2:-1]):
        raise checks.InputError(f"q and k must both have positions, got k {_shape(k)} and q {_shape(q)}")
    if v.shape[:-1] != k.shape[:-1]:
        raise checks.InputError(
            f"v must have the shape of k but for the last axis, got v {_shape(v)} and k {_shape(k)}"
        )
    if q.shape[-1] == 0:
        raise checks.InputError(f"q and k must have at least one channel, got {_shape(q)}")
    for name, x in (("k", k), ("v", v)):
        if x.dtype != q.dtype and autocast_dtype(x) is None:
            raise checks.InputTypeError(f"q, k and v must share a dtype, got q {q.dtype} and {name} {x.dtype}")
        if x.device != q.device:
            raise checks.InputError(f"q, k and v must be on one device, got q {q.device} and {name} {x.device}")
    if mask is not None:
        require_mask(mask, (k.shape[0], *k.shape[2:-1]), q.device, of="q", keys=True)


def _slice_tables(rel: Tables, q: Tensor) -> list[Tensor]:
    """Return a table (2n - 1, D) per axis of length n, so that kernels need not know R; empty without tables."""
    if rel is None:
        return []
    map_size, head_dim = q.shape[2:-1], q.shape[-1]
    if isinstance(rel, Tensor) or len(rel) != len(map_size):
        got = "a tensor" if isinstance(rel, Tensor) else f"{len(rel)}"
        raise checks.InputError(f"rel must hold one table for each of the {len(map_size)} map axes, got {got}")
    if all(table is None for table in rel):
        return []
    tables = []
    for axis, (n, table) in enumerate(zip(map_size, rel, strict=True)):
        if table is None:  # a mixture: zeros stand for a missing term
            tables.append(q.new_zeros(2 * n - 1, head_dim))
            continue
        if not isinstance(table, Tensor):
            raise checks.InputTypeError(f"table {axis} of rel must be a tensor or None, got {type(table).__name__}")
        if table.dim() != 2 or table.shape[0] % 2 == 0 or table.shape[1] != head_dim:
            raise checks.InputError(
                f"table {axis} of rel must be (2*R - 1, {head_dim}), D being {head_dim}; got {_shape(table)}"
            )
        if table.dtype != q.dtype and autocast_dtype(q) is None:
            raise checks.InputTypeError(f"rel must have the dtype of q, got {table.dtype} and {q.dtype}")
        if table.device != q.device:
            raise checks.InputError(f"rel must be on the device of q, got {table.device} and {q.device}")
        reach = (table.shape[0] + 1) // 2
        if n > reach:
            raise checks.InputError(
                f"table {axis} of rel has {table.shape[0]} rows and covers a length of {reach}, "
                f"but map axis {axis} has {n}"
            )
        tables.append(table[reach - n : reach + n - 1])
    return tables


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)
