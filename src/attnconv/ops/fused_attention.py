"""The kernel "blocked" as torch operators, so that compile, autograd, checkpointing and the FLOP counter know it.

Names, shapes and FLOPs are registered when `attnconv.ops` is imported; the kernel itself loads when first called.
Letters: B batch, N heads, L positions of the map, D key / E value channels a head.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import register_flop_formula

from attnconv import checks

COMPILE_IS_EXPORT = torch.__version__ < "2.12"  # torch 2.11 says that it exports when torch.compile traces


def run_blocked(q: Tensor, k: Tensor, v: Tensor, rel: Sequence[Tensor], scale: float) -> Tensor:
    """The output (B, N, *map, E), or a sentence on what this kernel cannot do and which one can."""
    if torch.compiler.is_exporting() and not (COMPILE_IS_EXPORT and torch.compiler.is_dynamo_compiling()):
        raise checks.InputError("impl='blocked' cannot be exported; impl='eager' can")
    if _has_tangent(q, k, v, *rel):  # custom operators drop it in silence
        raise RuntimeError("impl='blocked' has no forward-mode derivative; impl='eager' has one")
    try:
        return blocked_attention(q, k, v, rel, scale)[0]
    except RuntimeError as error:
        if "functorch transforms" not in str(error):
            raise
        raise RuntimeError("torch.func cannot differentiate impl='blocked'; with impl='eager' it can") from error


def _has_tangent(*tensors: Tensor) -> bool:
    """Whether forward-mode differentiation (torch.func.jvp, for one) runs through any of the tensors."""
    return forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)


@torch.library.custom_op("attnconv::blocked_attention", mutates_args=())
def blocked_attention(q: Tensor, k: Tensor, v: Tensor, rel: Sequence[Tensor], scale: float) -> tuple[Tensor, Tensor]:
    """The output (B, N, *map, E) and the log-sum-exp of each query (B, N, *map), as `kernels` says."""
    from attnconv.kernels.relative_attention import blocked

    return blocked.forward(q, k, v, rel, scale)


@blocked_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, rel: Sequence[Tensor], scale: float) -> tuple[Tensor, Tensor]:
    from attnconv.kernels.relative_attention import blocked

    return blocked.empty_output(q, v), q.new_empty(q.shape[:-1], dtype=torch.promote_types(q.dtype, torch.float32))


@torch.library.custom_op("attnconv::blocked_attention_backward", mutates_args=())
def blocked_attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel: Sequence[Tensor],
    out: Tensor,
    lse: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """The gradients of q, k, v and the tables."""
    from attnconv.kernels.relative_attention import blocked

    return blocked.backward(grad, q, k, v, rel, out, lse, scale)


@blocked_attention_backward.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel: Sequence[Tensor],
    out: Tensor,
    lse: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), [torch.empty_like(t) for t in rel]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, rel, ctx.scale = inputs
    out, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(q, k, v, out, lse, *rel)


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | list[Tensor] | None, ...]:
    q, k, v, out, lse, *rel = ctx.saved_tensors
    return *torch.ops.attnconv.blocked_attention_backward(grad, q, k, v, rel, out, lse, ctx.scale), None


def _refuse(*_: Any) -> None:
    raise RuntimeError("impl='blocked' has no second derivative; impl='eager' has one")


def _one_by_one(op: Any) -> Any:
    """A rule for vmap: one call a slice, since the tables of the slices may differ."""

    def rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        def taken(i: int, dim: Any, arg: Any) -> Any:
            if isinstance(arg, (list, tuple)):
                return [taken(i, d, a) for d, a in zip(dim, arg, strict=True)]
            return arg if dim is None else arg.select(dim, i)

        results = [op(*(taken(i, d, a) for d, a in zip(in_dims, args, strict=True))) for i in range(info.batch_size)]
        stacked = tree_map(lambda *slices: torch.stack(slices), *results)
        return stacked, tree_map(lambda _: 0, stacked)

    return rule


blocked_attention.register_autograd(_differentiate, setup_context=_save)
blocked_attention_backward.register_autograd(_refuse)
blocked_attention.register_vmap(_one_by_one(blocked_attention))
blocked_attention_backward.register_vmap(_one_by_one(blocked_attention_backward))


def _flops(q: Sequence[int], v: Sequence[int], rel: Sequence[Any], *, keys: int, values: int) -> int:
    """2 a multiply-add: ``keys`` products of length D for each pair of positions, and for each position term that a
    query needs, and ``values`` products of length E for each pair."""
    pairs = math.prod(q[2:-1]) ** 2
    terms = math.prod(q[2:-1]) * sum(q[2:-1]) if len(rel) else 0
    return 2 * q[0] * q[1] * (keys * q[-1] * (pairs + terms) + values * v[-1] * pairs)


@register_flop_formula(torch.ops.attnconv.blocked_attention)
def _(q: Any, k: Any, v: Any, rel: Any, *_: Any, **__: Any) -> int:
    return _flops(q, v, rel, keys=1, values=1)


@register_flop_formula(torch.ops.attnconv.blocked_attention_backward)
def _(grad: Any, q: Any, k: Any, v: Any, rel: Any, *_: Any, **__: Any) -> int:
    return _flops(q, v, rel, keys=3, values=2)  # the logits again, and their slopes times k and q
