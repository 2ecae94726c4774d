"""Choice of a kernel for relative attention: the abilities of each, and the fastest one as measured.

The state of torch comes first: autocast, export, torch.func transforms, forward-mode differentiation. Under autocast
the ops cast to its dtype and compute with autocast off, which would otherwise cast the float32 logits to half precision
inside the product. Kernels that are custom operators work in compiled graphs, but not in exported ones, under
transforms or in forward mode.

The choice depends on the map, D, E, dtype, device and need of a gradient, never on the batch size, so that one compiled
graph serves all batches. docs/results/kernels.md has the measurements behind the numbers.
Letters: D key / E value channels a head, L positions of the map.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import forward_ad

from attnconv import checks
from attnconv.kernels import KERNELS

# Queried once, since torch 2.11 cannot trace the query. torch.is_autocast_enabled raises for other devices, as meta.
DEVICES = frozenset(
    kind for kind in ("cpu", "cuda", "mps", "xpu", "xla", "hpu", "mtia") if torch.amp.is_autocast_available(kind)
)
COMPILE_IS_EXPORT = torch.__version__ < "2.12"  # torch 2.11 reports an export when torch.compile traces


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Return the autocast dtype for ``x``; None if autocast is off or, as for float64, does not apply."""
    kind = x.device.type
    if kind not in DEVICES or not torch.is_autocast_enabled(kind) or x.dtype == torch.float64:
        return None
    return torch.get_autocast_dtype(kind)


def autocast_off(x: Tensor) -> AbstractContextManager:
    """Return a context that disables autocast on the device of ``x``."""
    kind = x.device.type
    if kind not in DEVICES or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def exporting() -> bool:
    """True if torch.export, torch.jit.trace or an ONNX exporter is tracing."""
    if torch.jit.is_tracing():  # also by the older ONNX exporter
        return True
    return torch.compiler.is_exporting() and not (COMPILE_IS_EXPORT and torch.compiler.is_dynamo_compiling())


def transforming() -> bool:
    """True under a transform of torch.func (grad, jvp, vmap)."""
    return torch._C._are_functorch_transforms_active()


def has_tangent(*tensors: Tensor) -> bool:
    """True if any of the tensors has a forward-mode tangent."""
    return forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)


LARGEST_EAGER_IN_ONNX = 64 * 64  # positions


@dataclass(frozen=True)
class AttentionProblem:
    """The facts that the choice of a kernel depends on."""

    map_size: tuple[int, ...]
    head_dim: int  # D
    value_dim: int  # E
    dtype: torch.dtype = torch.float32
    device_type: str = "cpu"
    tables: bool = True  # True if there are position terms
    needs_grad: bool = True
    transformed: bool = False  # under torch.func or forward-mode differentiation
    export: str | None = None  # "onnx", "trace" (by torch.jit), "torch" or None
    key_map: tuple[int, ...] | None = None  # if it differs from map_size


def why_not(impl: str, problem: AttentionProblem) -> str | None:
    """Return why ``impl`` cannot compute ``problem``, as a clause; None if it can."""
    checks.one_of("impl", impl, KERNELS)
    if impl in ("blocked", "native", "triton"):
        if problem.export is not None:
            return "it is a custom operator, which exported programs do not know"
        if problem.transformed:
            return "it is a custom operator, which torch.func and forward mode cannot differentiate"
    if impl in ("eager", "blocked"):
        return None
    if impl == "native":
        from attnconv.kernels.relative_attention import native

        return native.why_not(dtype=problem.dtype, device_type=problem.device_type)
    if impl == "triton":
        from attnconv.kernels.relative_attention import triton

        return triton.why_not(head_dim=problem.head_dim, dtype=problem.dtype, device_type=problem.device_type)
    from attnconv.kernels.relative_attention import sdpa

    width = max(problem.head_dim + (sum(problem.map_size) if problem.tables else 0), problem.value_dim)
    return sdpa.why_not(width=width, dtype=problem.dtype, device_type=problem.device_type)


def choose_kernel(problem: AttentionProblem) -> str:
    """Return the kernel that impl="auto" runs."""
    return _choose(problem)[0]


def explain_choice(problem: AttentionProblem) -> tuple[str, dict[str, str]]:
    """Return the kernel that impl="auto" runs, and for each kernel a clause: why it runs or does not run."""
    chosen, reason = _choose(problem)
    reasons = {impl: why_not(impl, problem) or f"could run; {chosen} goes first: {reason}" for impl in KERNELS}
    return chosen, reasons | {chosen: reason}


def _choose(problem: AttentionProblem) -> tuple[str, str]:
    positions = math.prod(problem.map_size)
    keys = positions if problem.key_map is None else math.prod(problem.key_map)
    if problem.transformed:
        return "eager", "plain torch, which torch.func and forward mode can differentiate"
    if problem.export in ("onnx", "trace") and not positions > LARGEST_EAGER_IN_ONNX:
        return "eager", f"plain torch, the fastest in onnxruntime on maps of up to {LARGEST_EAGER_IN_ONNX} positions"
    if problem.export is not None:
        return "sdpa", "plain torch, which exports, and one fused call at run time"
    if problem.device_type == "meta":
        return "eager", "nothing is computed, and FLOP counters see its parts"
    if problem.device_type == "cuda":
        for impl, reason in (("triton", "fused for this device"), ("sdpa", "fused by torch")):
            if why_not(impl, problem) is None:
                return impl, reason
        return "blocked", "linear memory where no fused kernel runs"
    if why_not("native", problem) is None:
        return "native", "compiled for this processor, with linear memory"
    fewest = smallest_blocked(problem.head_dim, problem.value_dim, needs_grad=problem.needs_grad)
    if positions * keys < fewest**2:
        width = problem.head_dim + problem.value_dim
        return "eager", f"the fastest on maps of under {fewest} positions (D + E = {width})"
    return "blocked", f"the fastest on maps of {fewest} positions or more, with linear memory"


def smallest_blocked(head_dim: int, value_dim: int, *, needs_grad: bool) -> int:
    """Return the smallest map on which "blocked" beats "eager" on a CPU, by lines through measured crossings."""
    width = head_dim + value_dim
    return 60 + width // 2 if needs_grad else 24 + width // 3
