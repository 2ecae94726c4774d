"""How the ops behave under torch.autocast: they take its dtype, then compute with autocast off.

Left on, autocast would cast the float32 logits back to half precision inside the product.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

# Asked once: torch 2.11 cannot trace the question. Of other devices, meta for one, one may not ask if autocast is on.
DEVICES = frozenset(
    kind for kind in ("cpu", "cuda", "mps", "xpu", "xla", "hpu", "mtia") if torch.amp.is_autocast_available(kind)
)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype that autocast asks of ``x``; None where it is off or, as for float64, leaves a tensor alone."""
    kind = x.device.type
    if kind not in DEVICES or not torch.is_autocast_enabled(kind) or x.dtype == torch.float64:
        return None
    return torch.get_autocast_dtype(kind)


def autocast_off(x: Tensor) -> AbstractContextManager:
    """A context in which autocast leaves the products of tensors on ``x``'s device alone."""
    kind = x.device.type
    if kind not in DEVICES or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)
