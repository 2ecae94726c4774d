"""The kernels of FUSED as torch operators: what compile, autograd, checkpointing, the FLOP counter know.

Names, shapes and FLOPs are registered when `attnconv.ops` is imported; a kernel itself loads when first called.
Letters: B batch, N heads, D key / E value channels a head.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import register_flop_formula

from attnconv import checks
from attnconv.ops.kernel_choice import autocast_off, exporting, has_tangent

FUSED = ("native", "blocked", "triton")


def run_fused(
    impl: str, q: Tensor, k: Tensor, v: Tensor, rel: Sequence[Tensor], mask: Tensor | None, scale: float
) -> Tensor:
    """Return the output (B, N, *map, E) of one of FUSED; raise and name the kernel that can where it cannot run."""
    if exporting():
        raise checks.InputError(f"impl={impl!r} cannot be exported; impl='sdpa' and impl='eager' can")
    if has_tangent(q, k, v, *rel):  # custom operators drop it in silence
        raise RuntimeError(f"impl={impl!r} has no forward-mode derivative; impl='eager' has one")
    try:
        return _OPS[impl](q, k, v, rel, mask, scale)[0]
    except RuntimeError as error:
        if "functorch transforms" not in str(error):
            raise
        raise RuntimeError(f"torch.func cannot differentiate impl={impl!r}; with impl='eager' it can") from error


def _kernel(impl: str) -> Any:
    from attnconv.kernels.relative_attention import blocked, native, triton

    return {"native": native, "blocked": blocked, "triton": triton}[impl]


def _register(impl: str) -> Any:
    """Define attnconv::<impl>_attention and its backward."""

    def forward(
        q: Tensor, k: Tensor, v: Tensor, rel: Sequence[Tensor], mask: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor]:
        with autocast_off(q):
            return _kernel(impl).forward(q, k, v, rel, mask, scale)

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
        with autocast_off(q):  # a backward may well be called inside
            return _kernel(impl).backward(grad, q, k, v, rel, mask, out, lse, scale)

    # The output (B, N, *map, E) and each query's log-sum-exp (B, N, *map); the gradients of q, k, v and the tables.
    forward_op = torch.library.custom_op(f"attnconv::{impl}_attention", forward, mutates_args=())
    backward_op = torch.library.custom_op(f"attnconv::{impl}_attention_backward", backward, mutates_args=())

    def differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | list[Tensor] | None, ...]:
        q, k, v, mask, out, lse, *rel = ctx.saved_tensors
        if torch._C._functorch.is_legacy_batchedtensor(grad):  # pyright: ignore[reportAttributeAccessIssue]
            raise RuntimeError(f"impl={impl!r} has no gradients in batches (is_grads_batched); impl='eager' has them")
        return *backward_op(grad, q, k, v, rel, mask, out, lse, ctx.scale), None, None

    def refuse(*_: Any) -> None:
        raise RuntimeError(f"impl={impl!r} has no second derivative; impl='eager' has one")

    forward_op.register_fake(_fake_forward)
    backward_op.register_fake(_fake_backward)
    forward_op.register_autograd(differentiate, setup_context=_save)
    backward_op.register_autograd(refuse)
    for op in (forward_op, backward_op):
        op.register_vmap(_one_by_one(op))
    packets = torch.ops.attnconv
    register_flop_formula(getattr(packets, f"{impl}_attention"))(_forward_flops)
    register_flop_formula(getattr(packets, f"{impl}_attention_backward"))(_backward_flops)
    return forward_op


def _fake_forward(
    q: Tensor, k: Tensor, v: Tensor, rel: Sequence[Tensor], mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    from attnconv.kernels.relative_attention import empty_output

    return empty_output(q, v), q.new_empty(q.shape[:-1], dtype=torch.promote_types(q.dtype, torch.float32))


def _fake_backward(
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
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), [torch.empty_like(t) for t in rel]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, rel, mask, ctx.scale = inputs
    out, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(q, k, v, mask, out, lse, *rel)


def _one_by_one(op: Any) -> Any:
    """Return a rule for vmap: one call a slice, since the tables of the slices may differ."""

    def rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        def taken(i: int, dim: Any, arg: Any) -> Any:
            if isinstance(arg, (list, tuple)):
                return [taken(i, d, a) for d, a in zip(dim, arg, strict=True)]
            return arg if dim is None else arg.select(dim, i)

        results = [op(*(taken(i, d, a) for d, a in zip(in_dims, args, strict=True))) for i in range(info.batch_size)]
        stacked = tree_map(lambda *slices: torch.stack(slices), *results)
        return stacked, tree_map(lambda _: 0, stacked)

    return rule


def _flops(q: Sequence[int], k: Sequence[int], v: Sequence[int], rel: Sequence[Any], *, keys: int, values: int) -> int:
    """2 a multiply-add: ``keys`` products of length D for each pair of a query and a key, masked or not, and for each
    position term that a query needs, and ``values`` products of length E for each pair."""
    pairs = math.prod(q[2:-1]) * math.prod(k[2:-1])
    terms = math.prod(q[2:-1]) * sum(q[2:-1]) if len(rel) else 0
    return 2 * q[0] * q[1] * (keys * q[-1] * (pairs + terms) + values * v[-1] * pairs)


def _forward_flops(q: Any, k: Any, v: Any, rel: Any, *_: Any, **__: Any) -> int:
    return _flops(q, k, v, rel, keys=1, values=1)


def _backward_flops(grad: Any, q: Any, k: Any, v: Any, rel: Any, *_: Any, **__: Any) -> int:
    return _flops(q, k, v, rel, keys=3, values=2)  # the logits again, and their slopes times k and q


_OPS = {impl: _register(impl) for impl in FUSED}
