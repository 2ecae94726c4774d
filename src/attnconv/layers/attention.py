"""The base of all attention layers: what the rest of the library may ask of any of them.

Attention can keep nothing for the backward pass but its inputs, and be computed again there. Only the call of the op is
computed again, never the module: a second forward of a module under spectral norm would advance its power iteration,
and give other gradients.

Letters: B batch, C channels, K classes, H rows, W columns.
"""

import contextlib
import math
from collections.abc import Callable, Collection, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils.checkpoint import checkpoint

from attnconv import checks
from attnconv.layers.spectral_norm import redrawn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Attention(nn.Module):
    """A layer that calls an op through ``attend``.

    Attributes:
        recompute: see `set_recompute`.
        activity_name: "gamma" or "attention_share", which number ``activity`` is.
    """

    recompute = False
    activity_name: ClassVar[str]

    def reset_attention(self, initialise: Callable[[nn.Module], None]) -> None:
        """Draw anew what the layer adds to a plain network, each of its convolutions as ``initialise`` draws it."""
        raise NotImplementedError(f"{type(self).__name__} has to define reset_attention")

    def without_attention(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the output for ``x``, which is ``y``, as it would be if attention brought nothing to it."""
        raise NotImplementedError(f"{type(self).__name__} has to define without_attention")

    def activity(self, y: Tensor) -> float:
        """Return how much attention brings to the output ``y``: gamma, or its share of the variance, 0 to 1."""
        raise NotImplementedError(f"{type(self).__name__} has to define activity")

    def attend(self, op: Callable[..., Tensor], *inputs: Any, **options: Any) -> Tensor:
        """Return ``op(*inputs, **options)``, computed again in the backward pass where that was asked for."""
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return op(*inputs, **options)
        # The ops draw no random numbers, so the generators need not be put back.
        output = checkpoint(op, *inputs, use_reentrant=False, preserve_rng_state=False, **options)
        assert isinstance(output, Tensor)
        return output


class GatedAttention(Attention):
    """A layer whose output is its input and gamma times attention; its submodules are all `constrained_conv`."""

    activity_name = "gamma"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = checks.integer("channels", channels, at_least=1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def _require_map(self, x: Tensor) -> None:
        """Raise unless ``x`` is (B, C, *map)."""
        if x.dim() < 3 or x.shape[1] != self.channels:
            raise checks.InputError(
                f"{type(self).__name__} takes (B, {self.channels}, *map), a batch axis included; got {tuple(x.shape)}"
            )

    def reset_attention(self, initialise: Callable[[nn.Module], None]) -> None:
        """Draw the weights anew, as ``initialise`` draws a convolution, before any constraint; gamma is 0 again."""
        for name, conv in list(self.named_children()):
            assert isinstance(conv, nn.Conv1d)
            new = redrawn(conv)
            initialise(new)
            setattr(self, name, new)
        with torch.no_grad():
            self.gamma.zero_()

    def without_attention(self, x: Tensor, y: Tensor) -> Tensor:
        """Return a copy of ``x``, which is the output at gamma 0; what follows may change it in place."""
        return x.clone()

    def activity(self, y: Tensor) -> float:
        """Return gamma."""
        return self.gamma.item()


def set_recompute(model: nn.Module, recompute: bool = True) -> int:
    """Tell every attention layer in ``model`` whether to compute attention again; return how many layers there are.

    Memory: impl "eager" keeps the logits of all pairs of positions otherwise; "blocked" never does.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, Attention)]
    for layer in layers:
        layer.recompute = recompute
    return len(layers)


@contextlib.contextmanager
def attention_off(model: nn.Module, *, only: Collection[nn.Module] | None = None) -> Iterator[None]:
    """Run ``model`` in the block as if its attention brought nothing: gamma 0, or the attention channels 0.

    Args:
        model: the network.
        only: these of its layers; all of them if None.
    """
    handles = [
        layer.register_forward_hook(lambda layer, inputs, y: layer.without_attention(inputs[0], y))  # pyright: ignore[reportCallIssue]
        for layer in model.modules()
        if isinstance(layer, Attention) and (only is None or layer in only)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def attention_activity(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Return how much each attention layer brings for these images, by "gamma NAME" or "attention_share NAME"."""
    found: dict[str, float] = {}
    names = {layer: name for name, layer in model.named_modules() if isinstance(layer, Attention)}

    def note(layer: nn.Module, inputs: Any, y: Tensor) -> None:
        assert isinstance(layer, Attention)
        found[f"{layer.activity_name} {names[layer]}"] = layer.activity(y)

    handles = [layer.register_forward_hook(note) for layer in names]
    try:
        if names:
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


class LogitChange:
    """Compare the logits (B, K) or (B, K, H, W) of two networks, over any number of batches."""

    def __init__(self) -> None:
        self._moved = self._norm = 0.0  # sums of squares
        self._changed = self._count = 0

    def add(self, before: Tensor, after: Tensor) -> None:
        """Count in a batch of logits ``before`` and ``after`` the change."""
        self._moved += (after.double() - before.double()).square().sum().item()
        self._norm += before.double().square().sum().item()
        self._changed += int((after.argmax(1) != before.argmax(1)).sum())
        self._count += before.argmax(1).numel()

    @property
    def logits_moved(self) -> float:
        """Return the norm of the difference, as a share of the norm of the logits before."""
        return torch.tensor(self._moved / max(self._norm, 1e-300)).sqrt().item()

    @property
    def predictions_changed(self) -> float:
        """Return the percentage of the images, or of their pixels, whose largest logit is another one."""
        return 100 * self._changed / max(self._count, 1)


def attention_widths(
    out_channels: int, *, key_ratio: float, value_ratio: float, num_heads: int, min_head_dim: int
) -> tuple[int, int]:
    """Return max(floor(key_ratio*F/N)*N, min_head_dim*N) and max(floor(value_ratio*F/N)*N, N), the paper's widths."""
    for name, ratio in (("key_ratio", key_ratio), ("value_ratio", value_ratio)):
        if checks.number(name, ratio) < 0:
            raise checks.InputError(f"{name} must not be negative, got {ratio}")
    checks.integer("num_heads", num_heads, at_least=1)
    checks.integer("min_head_dim", min_head_dim, at_least=1)
    # 0.29 * 100 is 28.999999999999996 in binary, so a hair is added before the floor.
    key_dim, value_dim = (math.floor(r * out_channels / num_heads + 1e-9) for r in (key_ratio, value_ratio))
    return max(key_dim, min_head_dim) * num_heads, max(value_dim, 1) * num_heads


def has_hooks(module: nn.Module) -> bool:
    """True if skipping ``module``'s forward would be observable: hooks of it or of all modules, or a forward replaced.

    A FLOP counter has hooks on all modules.
    """
    return (
        any(getattr(module, name) for name in HOOKS)
        or any(getattr(torch_module, f"_global{name}") for name in HOOKS)
        or "forward" in vars(module)
    )
