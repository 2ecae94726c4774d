"""The state of torch around a call: autocast, export, transforms of torch.func, forward-mode differentiation.

Under autocast the ops take its dtype, then compute with autocast off: left on, it would cast the float32 logits back to
half precision inside the product. Kernels that are torch operators of their own can be part of a compiled graph, but
not of an exported one, of a transform or of forward mode.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.autograd import forward_ad

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
    """True if torch.export or an exporter to ONNX is tracing."""
    if torch.onnx.is_in_onnx_export():  # by the older exporter, which is none of torch.export
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
