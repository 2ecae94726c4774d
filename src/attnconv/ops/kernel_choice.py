"""The choice of a kernel for relative attention: what each can do, and the fastest where it was measured.

The choice looks at the map, D, E, dtype, device and need of a gradient, never at the batch: a compiled graph is then
valid for any. docs/results/kernels.md holds the measurements behind the numbers here.
Letters: D key / E value channels a head, L positions of the map.
"""

import math
from dataclasses import dataclass

import torch

from attnconv import checks

KERNELS = ("eager", "blocked", "sdpa", "triton")
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
    export: str | None = None  # "onnx", "torch" or None


def why_not(impl: str, problem: AttentionProblem) -> str | None:
    """Return the reason why ``impl`` cannot compute ``problem``, as a clause; None if it can."""
    checks.one_of("impl", impl, KERNELS)
    if impl in ("blocked", "triton"):
        if problem.export is not None:
            return "it is an operator of its own, which exported programs do not know"
        if problem.transformed:
            return "it is an operator of its own, which torch.func and forward mode cannot differentiate"
    if impl in ("eager", "blocked"):
        return None
    from attnconv.kernels.relative_attention import sdpa, triton

    head_dim, value_dim, device_type = problem.head_dim, problem.value_dim, problem.device_type
    if impl == "triton":
        return triton.why_not(head_dim=head_dim, value_dim=value_dim, dtype=problem.dtype, device_type=device_type)
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
    if problem.transformed:
        return "eager", "plain torch, which torch.func and forward mode can differentiate"
    if problem.export == "onnx" and not positions > LARGEST_EAGER_IN_ONNX:
        return "eager", f"on maps of up to {LARGEST_EAGER_IN_ONNX} positions the fastest in onnxruntime"
    if problem.export is not None:
        return "sdpa", "plain torch, which exports, and one fused call where the program runs"
    if problem.device_type == "meta":
        return "eager", "there is nothing to compute, and its parts are counted one by one"
    if problem.device_type == "cuda":
        for impl, reason in (("triton", "fused for this device"), ("sdpa", "fused by torch")):
            if why_not(impl, problem) is None:
                return impl, reason
        return "blocked", "linear memory where no fused kernel can run"
    fewest = smallest_blocked(problem.head_dim, problem.value_dim, needs_grad=problem.needs_grad)
    if positions < fewest:
        return (
            "eager",
            f"the fastest on maps of under {fewest} positions (D + E = {problem.head_dim + problem.value_dim})",
        )
    return "blocked", f"the fastest on maps of {fewest} positions or more, at linear memory"


def smallest_blocked(head_dim: int, value_dim: int, *, needs_grad: bool) -> int:
    """Return the fewest positions at which "blocked" beats "eager" on a CPU: lines through measured crossings."""
    width = head_dim + value_dim
    return 60 + width // 2 if needs_grad else 24 + width // 3
