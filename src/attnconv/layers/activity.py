"""Effect of attention on a network: run it with attention off, compare logits, and measure each layer.

Letters: B batch, K classes, H rows, W columns.
"""

import contextlib
import inspect
import math
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from attnconv.layers.attention import Attention


@contextlib.contextmanager
def attention_off(model: nn.Module, *, only: Collection[nn.Module] | None = None) -> Iterator[None]:
    """Switch attention off inside the ``with`` block: each layer returns `Attention.without_attention`.

    Args:
        model: the network.
        only: the layers to switch off; all if None.
    """
    with contextlib.ExitStack() as stack:
        for layer in model.modules():
            if isinstance(layer, Attention) and (only is None or layer in only):
                stack.enter_context(layer.register_forward_hook(_without_attention, with_kwargs=True))
        yield


def _without_attention(layer: Any, inputs: tuple[Any, ...], named: dict[str, Any], y: Tensor) -> Tensor:
    return layer.without_attention(map_given(layer, inputs, named), y)


def map_given(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    """Return the first argument of a call of ``layer`` with these positional and named arguments."""
    return inputs[0] if inputs else named[next(iter(inspect.signature(layer.forward).parameters))]


@torch.no_grad()
def attention_activity(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Return the activity of each attention layer on these images, by "gamma NAME" or "attention_share NAME"."""
    found: dict[str, float] = {}
    names = {layer: name for name, layer in model.named_modules() if isinstance(layer, Attention)}

    def note(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], y: Tensor) -> None:
        assert isinstance(layer, Attention)
        found[f"{layer.activity_name} {names[layer]}"] = layer.activity(map_given(layer, inputs, named), y)

    with contextlib.ExitStack() as stack:
        for layer in names:
            stack.enter_context(layer.register_forward_hook(note, with_kwargs=True))
        if names:
            model(images)
    return found


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into evaluation mode inside the ``with`` block; restore the mode of every module."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class LogitChange:
    """Change of logits (B, K) or (B, K, H, W) between two networks, accumulated over batches."""

    def __init__(self) -> None:
        self.sums = torch.zeros(4, dtype=torch.float64)  # squares of change and logits; changed and all predictions

    def add(self, before: Tensor, after: Tensor) -> None:
        """Add a batch of logits ``before`` and ``after`` the change."""
        before, after = before.cpu().double(), after.cpu().double()
        changed = after.argmax(1) != before.argmax(1)
        squares = (after - before).square().sum(), before.square().sum()
        self.sums += torch.stack([*squares, changed.sum(), torch.tensor(changed.numel())])

    @property
    def logits_moved(self) -> float:
        """Return the norm of the difference relative to the norm of the logits before."""
        moved, norm, *_ = self.sums.tolist()
        return math.sqrt(moved / max(norm, 1e-300))

    @property
    def predictions_changed(self) -> float:
        """Return the percentage of images, or of pixels, whose prediction changed."""
        *_, changed, count = self.sums.tolist()
        return 100 * changed / max(count, 1)
