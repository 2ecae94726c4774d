"""Kernels with a backward of their own, as torch operators for compile, autograd, checkpointing and FLOP counters.

Importing `attnconv.ops` registers their names, shapes and FLOPs; a kernel loads at its first call.
Letters: B batch, N heads, D key / E value channels a head.
"""

import functools
import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import register_flop_formula

from attnconv.ops.kernel_choice import autocast_off, transforming

FUSED = ("native", "blocked", "triton")
LIBRARY = torch.library.Library("attnconv", "FRAGMENT")


def run_fused(
    impl: str, q: Tensor, k: Tensor, v: Tensor, rel: Sequence[Tensor], mask: Tensor | None, scale: float
) -> Tensor:
    """Return the output (B, N, *map, E) of one of FUSED."""
    try:
        if _needs_grad(q, k, v, rel) and not (torch.compiler.is_compiling() or transforming()):
            return _Fused.apply(impl, scale, mask, q, k, v, *rel)[0]  # what the operator does, with one dispatch less
        return _OPS[impl][0](q, k, v, rel, mask, scale)[0]
    except RuntimeError as error:
        if "functorch transforms" not in str(error):
            raise
        raise RuntimeError(f"torch.func cannot differentiate impl={impl!r}; with impl='eager' it can") from error


def _needs_grad(q: Tensor, k: Tensor, v: Tensor, rel: Sequence[Tensor]) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v, *rel))


@functools.cache
def _kernel(impl: str) -> Any:
    return importlib.import_module(f"attnconv.kernels.relative_attention.{impl}")


def _register(impl: str) -> tuple[Any, Any]:
    """Define attnconv::<impl>_attention and its backward; return both."""

    def forward(q: Tensor, *inputs: Any) -> tuple[Tensor, Tensor]:
        with autocast_off(q):
            return _kernel(impl).forward(q, *inputs)

    def backward(grad: Tensor, q: Tensor, *inputs: Any) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        with autocast_off(q):  # a backward pass may run under autocast
            return _kernel(impl).backward(grad, q, *inputs)

    def differentiable(
        q: Tensor, k: Tensor, v: Tensor, rel: Sequence[Tensor], mask: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor]:
        if _needs_grad(q, k, v, rel):
            return _Fused.apply(impl, scale, mask, q, k, v, *rel)  # pyright: ignore[reportReturnType]
        with torch._C._AutoDispatchBelowAutograd():  # pyright: ignore[reportAttributeAccessIssue]
            return forward_op(q, k, v, rel, mask, scale)

    inputs = "Tensor q, Tensor k, Tensor v, Tensor[] rel, Tensor? mask"
    outputs = "(Tensor, Tensor, Tensor, Tensor[])"
    forward_op = _define(f"{impl}_attention", f"({inputs}, float scale) -> (Tensor, Tensor)", forward, _fake_forward)
    backward_schema = f"(Tensor grad, {inputs}, Tensor out, Tensor lse, float scale) -> {outputs}"
    backward_op = _define(f"{impl}_attention_backward", backward_schema, backward, _fake_backward)
    register_flop_formula(getattr(torch.ops.attnconv, f"{impl}_attention"))(_forward_flops)
    register_flop_formula(getattr(torch.ops.attnconv, f"{impl}_attention_backward"))(_backward_flops)
    LIBRARY.impl(f"{impl}_attention", differentiable, "Autograd")
    return forward_op, backward_op


def _define(name: str, schema: str, compute: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Define attnconv::<name> for all devices with its fake and its vmap rule; return it."""
    LIBRARY.define(name + schema, tags=torch.Tag.pt2_compliant_tag)
    LIBRARY.impl(name, compute, "CompositeExplicitAutograd")
    torch.library.register_fake(f"attnconv::{name}", fake, lib=LIBRARY)
    op = getattr(torch.ops.attnconv, name).default
    torch.library.register_vmap(f"attnconv::{name}", _one_by_one(op), lib=LIBRARY)
    return op


class _Fused(torch.autograd.Function):
    """A fused operator and its backward.

    `torch.library.register_autograd` would take three times as long for an operator with a list of tensors.
    """

    @staticmethod
    def forward(
        ctx: Any, impl: str, scale: float, mask: Tensor | None, q: Tensor, k: Tensor, v: Tensor, *rel: Tensor
    ) -> tuple[Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():  # pyright: ignore[reportAttributeAccessIssue]
            out, lse = _OPS[impl][0](q, k, v, rel, mask, scale)
        ctx.impl, ctx.scale = impl, scale
        ctx.mark_non_differentiable(lse)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(mask, out, lse, q, k, v, *rel)
        return out, lse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        mask, out, lse, *inputs = ctx.saved_tensors
        grad = grads[0]
        if grad is None:
            return (None,) * (3 + len(inputs))
        batched = torch._C._functorch.is_legacy_batchedtensor(grad)  # pyright: ignore[reportAttributeAccessIssue]
        if torch.is_grad_enabled() or batched:
            return None, None, None, *_differentiable_gradients(ctx, grad, mask, inputs)
        q, k, v, *rel = inputs
        *own, of_tables = _OPS[ctx.impl][1](grad, q, k, v, rel, mask, out, lse, ctx.scale)
        return None, None, None, *own, *of_tables


def _differentiable_gradients(
    ctx: Any, grad: Tensor, mask: Tensor | None, inputs: list[Tensor]
) -> Iterator[Tensor | None]:
    """Return the gradients of q, k, v and the tables through "eager", with quadratic memory.

    They can be differentiated again, and batched (``is_grads_batched``).
    """
    from attnconv.kernels.relative_attention import eager

    again = torch.is_grad_enabled()
    with autocast_off(grad), torch.enable_grad():
        inputs = [t.view_as(t) for t in inputs]  # separate tensors, even if one is a view of another
        q, k, v, *rel = inputs
        y = eager.forward(q, k, v, rel, mask, ctx.scale)
    needed = [t for t, wanted in zip(inputs, ctx.needs_input_grad[3:], strict=True) if wanted]
    found = iter(torch.autograd.grad(y, needed, grad, create_graph=again))
    return (next(found) if wanted else None for wanted in ctx.needs_input_grad[3:])


def _fake_forward(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    from attnconv.kernels.relative_attention import empty_output

    return empty_output(q, v), q.new_empty(q.shape[:-1], dtype=torch.promote_types(q.dtype, torch.float32))


def _fake_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, rel: Sequence[Tensor], *_: Any
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), [torch.empty_like(t) for t in rel]


def _one_by_one(op: Any) -> Any:
    """Return a vmap rule with one call per slice, since the slices may have different tables."""

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
    """Return FLOPs, 2 per multiply-add.

    Each pair of a query and a key, masked or not, takes ``keys`` products of length D and ``values`` products of length
    E; each position term takes ``keys`` products of length D.
    """
    pairs = math.prod(q[2:-1]) * math.prod(k[2:-1])
    terms = math.prod(q[2:-1]) * sum(q[2:-1]) if len(rel) else 0
    return 2 * q[0] * q[1] * (keys * q[-1] * (pairs + terms) + values * v[-1] * pairs)


def _forward_flops(q: Any, k: Any, v: Any, rel: Any, *_: Any, **__: Any) -> int:
    return _flops(q, k, v, rel, keys=1, values=1)


def _backward_flops(grad: Any, q: Any, k: Any, v: Any, rel: Any, *_: Any, **__: Any) -> int:
    return _flops(q, k, v, rel, keys=3, values=2)  # recomputed logits, and their gradients times k and q


_OPS = {impl: _register(impl) for impl in FUSED}
