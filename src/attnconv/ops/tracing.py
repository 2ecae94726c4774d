"""What torch is doing around a call: exporting, transforming, forward-mode differentiation.

Kernels that are torch operators of their own can be part of a compiled graph, but not of these.
"""

import torch
from torch import Tensor
from torch.autograd import forward_ad

COMPILE_IS_EXPORT = torch.__version__ < "2.12"  # torch 2.11 says that it exports when torch.compile traces


def exporting() -> bool:
    """Whether torch.export or an exporter to ONNX is tracing."""
    if torch.onnx.is_in_onnx_export():  # by the older exporter, which is none of torch.export
        return True
    return torch.compiler.is_exporting() and not (COMPILE_IS_EXPORT and torch.compiler.is_dynamo_compiling())


def exporting_to_onnx() -> bool:
    return torch.onnx.is_in_onnx_export()


def transforming() -> bool:
    """Whether a transform of torch.func (grad, jvp, vmap) is at work."""
    return torch._C._are_functorch_transforms_active()


def has_tangent(*tensors: Tensor) -> bool:
    """Whether forward-mode differentiation (torch.func.jvp, for one) runs through any of the tensors."""
    return forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)
