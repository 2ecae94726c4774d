"""Parts that networks share: 3x3 convolutions, plain or augmented; squeeze-excitation; stages; map sizes.

Sources: Bello et al. 2019, arXiv:1904.09925, section 4, with one setting for all augmented convolutions of a network;
Hu et al. 2018, arXiv:1709.01507.
"""

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.utils.checkpoint import checkpoint

from attnconv import checks
from attnconv.layers import AugmentedConv2d

Conv3x3 = Callable[..., nn.Module]  # of in_channels, out_channels, stride, dilation


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """Make a 3x3 convolution without bias: (B, C, H, W) -> (B, out_channels, H / stride, W / stride), rounded up."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, dilation, dilation, bias=False)


class ResidualBlock(nn.Module):
    """Base of blocks that add a path of convolutions to a shortcut.

    Attributes:
        drop_path_rate: probability in training that an image takes only the shortcut.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drop_path_rate = 0.0

    def drop_path(self, y: Tensor) -> Tensor:
        """Return the path's output ``y``, zeroed for some images and scaled for the others to keep the mean."""
        if self.drop_path_rate == 0.0 or not self.training:
            return y
        kept = 1.0 - self.drop_path_rate
        return y * y.new_empty([y.shape[0], 1, 1, 1]).bernoulli_(kept).div_(kept)


class Stage(nn.Sequential):
    """Blocks in sequence; with ``grad_checkpointing`` the backward pass recomputes each."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__(*blocks)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        for block in self:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = _computed_again(block, x)
            else:
                x = block(x)
        return x


def _computed_again(block: nn.Module, x: Tensor) -> Tensor:
    """Return ``block(x)``; the backward pass computes it again.

    The recomputation starts from the buffers of the first pass and restores the current ones afterwards, so running
    averages move once and spectral norm gives the same weights. Under torch.compile both move twice with spectral norm.
    """
    if not torch.is_grad_enabled() or torch.jit.is_tracing():
        return block(x)
    if torch.compiler.is_compiling():
        return checkpoint(block, x, use_reentrant=False)  # pyright: ignore[reportReturnType]
    kept = _Kept(block)
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), kept))  # pyright: ignore[reportReturnType]


class _Kept:
    """A reusable context in which a block has the buffers that it had when this object was made."""

    def __init__(self, block: nn.Module) -> None:
        self.buffers = list(block.buffers())
        self.found = [buffer.clone() for buffer in self.buffers]

    def __enter__(self) -> None:
        self.then = [buffer.clone() for buffer in self.buffers]
        self._put(self.found)

    def __exit__(self, *_: object) -> None:
        self._put(self.then)

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        for buffer, value in zip(self.buffers, values, strict=True):
            buffer.copy_(value)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Options that all augmented convolutions of a network share, named as in `AugmentedConv2d.from_ratios`."""

    key_ratio: float
    value_ratio: float
    num_heads: int
    min_head_dim: int
    position: str | None

    def conv3x3(self, map_size: tuple[int, int], attention_pool: int = 1) -> Conv3x3:
        """Return a function that makes an augmented `conv3x3` with output maps of at most ``map_size``."""
        shared = {"bias": False, "feat_size": map_size, "attention_pool": attention_pool, **asdict(self)}

        def make(in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1) -> nn.Module:
            return AugmentedConv2d.from_ratios(in_channels, out_channels, 3, stride, dilation, dilation, **shared)

        return make


def squeeze_excitation(channels: int, width: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    """Make squeeze-excitation with ``width`` channels between its two layers; the shape (B, channels, H, W) stays."""
    return checks.require("torchvision", extra="train").ops.SqueezeExcitation(channels, width, activation=activation)


def chosen(what: str, value: Any, known: tuple[int, ...]) -> tuple[int, ...]:
    """Return ``value``, a list of stages among ``known``, as a tuple."""
    if not isinstance(value, (tuple, list)) or any(stage not in known for stage in value):
        names = f"{', '.join(map(str, known[:-1]))} and {known[-1]}"
        raise checks.InputError(f"{what} must be a list of stages among {names}, got {value!r}")
    return tuple(value)


def halved(map_size: tuple[int, int]) -> tuple[int, int]:
    """Return half of a map's size, rounded up, as a padded 3x3 window of stride 2 gives it."""
    rows, columns = map_size
    return -(-rows // 2), -(-columns // 2)


def require_pixels(x: Tensor, least: int) -> None:
    """Raise InputError unless the images ``x`` have ``least`` pixels per side; torch.fx has no sizes."""
    if not isinstance(x, Proxy) and min(x.shape[-2:]) < least:
        raise checks.InputError(
            f"the network needs images of at least {least} x {least} pixels, got {tuple(x.shape[-2:])}"
        )
