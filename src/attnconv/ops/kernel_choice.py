"""The choice of a kernel for relative attention: what each can do, and the fastest where it was measured.

The state of torch around a call comes first: autocast, export, transforms of torch.func, forward-mode differentiation.
Under autocast the ops take its dtype, then compute with autocast off: left on, it would cast the float32 logits back to
half precision inside the product. Kernels that are torch operators of their own can be part of a compiled graph, but
not of an exported one, of a transform or of forward mode.

The choice looks at the map, D, E, dtype, device and need of a gradient, never at the batch: a compiled graph is then
valid for any. docs/results/kernels.md holds the measurements behind the numbers here.
Letters: D key / E value channels a head, L positions of the map.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import forward_ad

from attnconv import checks

# Asked once: torch 2.11 cannot trace the question. Of other devices, meta for one, one may not ask if autocast is on.
DEVICES = frozenset(
    kind for kind in ("cpu", "cuda", "mps", "xpu", "xla", "hpu", "mtia") if torch.amp.is_autocast_available(kind)
)
COMPILE_IS_EXPORT = torch.__version__ < "2.12"  # torch 2.11 says that it exports when torch.compile traces


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Return the dtype that autocast asks of ``x``; None where it is off or, as for float64, leaves a tensor alone."""
    kind = x.device.type
    if kind not in DEVICES or not torch.is_autocast_enabled(kind) or x.dtype == torch.float64:
        return None
    return torch.get_autocast_dtype(kind)


def autocast_off(x: Tensor) -> AbstractContextManager:
    """Return a context in which autocast leaves the products of tensors on ``x``'s device alone."""
    kind = x.device.type
    if kind not in DEVICES or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def exporting() -> bool:
    """True if torch.export, torch.jit.trace or an exporter to ONNX is tracing."""
    if torch.jit.is_tracing():  # the older exporter to ONNX does, too
        return True
    return torch.compiler.is_exporting() and not (COMPILE_IS_EXPORT and torch.compiler.is_dynamo_compiling())


def exporting_to_onnx() -> bool:
    return torch.onnx.is_in_onnx_export()


def transforming() -> bool:
    """True if a transform of torch.func (grad, jvp, vmap) is at work."""
    return torch._C._are_functorch_transforms_active()


def has_tangent(*tensors: Tensor) -> bool:
    """True if forward-mode differentiation (torch.func.jvp, for one) runs through any of the tensors."""
    return forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)


KERNELS = ("eager", "blocked", "native", "sdpa", "triton")
LARGEST_EAGER_IN_ONNX = 64 * 64  # positions


@dataclass(frozen=True)
class AttentionProblem:
    """The facts that the choice of a kernel may look at."""

    map_size: tuple[int, ...]
    head_dim: int  # D
    value_dim: int  # E
    dtype: torch.dtype = torch.float32
    device_type: str = "cpu"
    tables: bool = True  # True if there are position terms
    needs_grad: bool = True
    transformed: bool = False  # by torch.func, or by forward-mode differentiation
    export: str | None = None  # "onnx", "trace" (by torch.jit), "torch" or None
    key_map: tuple[int, ...] | None = None  # where it is not that of the queries


def why_not(impl: str, problem: AttentionProblem) -> str | None:
    """Return the reason why ``impl`` cannot compute ``problem``, as a clause; None if it can."""
    checks.one_of("impl", impl, KERNELS)
    if impl in ("blocked", "native", "triton"):
        if problem.export is not None:
            return "it is an operator of its own, which exported programs do not know"
        if problem.transformed:
            return "it is an operator of its own, which torch.func and forward mode cannot differentiate"
    if impl in ("eager", "blocked"):
        return None
    if impl == "native":
        from attnconv.kernels.relative_attention import native

        return native.why_not(dtype=problem.dtype, device_type=problem.device_type)
    head_dim, value_dim, device_type = problem.head_dim, problem.value_dim, problem.device_type
    if impl == "triton":
        from attnconv.kernels.relative_attention import triton

        return triton.why_not(head_dim=head_dim, value_dim=value_dim, dtype=problem.dtype, device_type=device_type)
    from attnconv.kernels.relative_attention import sdpa

    return sdpa.why_not(
        map_size=problem.map_size,
        head_dim=head_dim,
        value_dim=value_dim,
        dtype=problem.dtype,
        device_type=device_type,
        tables=problem.tables,
    )


def choose_kernel(problem: AttentionProblem) -> str:
    """Return the kernel that impl="auto" runs."""
    return _choose(problem)[0]


def explain_choice(problem: AttentionProblem) -> tuple[str, dict[str, str]]:
    """Return the kernel that impl="auto" runs, and for each kernel one clause: why it runs, or why it does not."""
    chosen, reason = _choose(problem)
    reasons = {impl: why_not(impl, problem) or f"could run; {chosen} goes first: {reason}" for impl in KERNELS}
    return chosen, reasons | {chosen: reason}


def _choose(problem: AttentionProblem) -> tuple[str, str]:
    positions = math.prod(problem.map_size)
    keys = positions if problem.key_map is None else math.prod(problem.key_map)
    if problem.transformed:
        return "eager", "plain torch, which torch.func and forward mode can differentiate"
    if problem.export in ("onnx", "trace") and not positions > LARGEST_EAGER_IN_ONNX:
        return "eager", f"plain torch, on maps of up to {LARGEST_EAGER_IN_ONNX} positions the fastest in onnxruntime"
    if problem.export is not None:
        return "sdpa", "plain torch, which exports, and one fused call where the program runs"
    if problem.device_type == "meta":
        return "eager", "there is nothing to compute, and its parts are counted one by one"
    if problem.device_type == "cuda":
        for impl, reason in (("triton", "fused for this device"), ("sdpa", "fused by torch")):
            if why_not(impl, problem) is None:
                return impl, reason
        return "blocked", "linear memory where no fused kernel can run"
    if why_not("native", problem) is None:
        return "native", "compiled for this processor, at linear memory"
    fewest = smallest_blocked(problem.head_dim, problem.value_dim, needs_grad=problem.needs_grad)
    if positions * keys < fewest**2:
        return (
            "eager",
            f"the fastest on maps of under {fewest} positions (D + E = {problem.head_dim + problem.value_dim})",
        )
    return "blocked", f"the fastest on maps of {fewest} positions or more, at linear memory"


def smallest_blocked(head_dim: int, value_dim: int, *, needs_grad: bool) -> int:
    """Return the fewest positions at which "blocked" beats "eager" on a CPU: lines through measured crossings."""
    width = head_dim + value_dim
    return 60 + width // 2 if needs_grad else 24 + width // 3
