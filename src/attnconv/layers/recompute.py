"""Attention that keeps nothing for the backward pass but its inputs, and is computed again there.

Only the call of the op is computed again, never the module: a second forward of a module under spectral norm would
advance its power iteration, and give other gradients.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Attention(nn.Module):
    """A layer that calls an op through ``attend``."""

    recompute = False  # see `set_recompute`

    def attend(self, op: Callable[..., Tensor], *inputs: Any, **options: Any) -> Tensor:
        """``op(*inputs, **options)``, computed again in the backward pass where that was asked for."""
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return op(*inputs, **options)
        # The ops draw no random numbers, so the generators need not be put back.
        output = checkpoint(op, *inputs, use_reentrant=False, preserve_rng_state=False, **options)
        assert isinstance(output, Tensor)
        return output


def set_recompute(model: nn.Module, recompute: bool = True) -> int:
    """Tell every attention layer in ``model`` whether to compute attention again; how many layers there are.

    Memory: impl "eager" keeps the logits of all pairs of positions otherwise; "blocked" never does.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, Attention)]
    for layer in layers:
        layer.recompute = recompute
    return len(layers)
