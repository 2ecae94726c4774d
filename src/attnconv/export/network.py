"""A network that is read from a file, as a module.

Letters: B batch, C channels, H rows, W columns.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from attnconv import checks
from attnconv.export.facts import Facts


class ExportedNetwork(nn.Module):
    """What a runtime computes, on the CPU and without gradients: (B, C, H, W) -> logits, float32.

    Raises:
        InputError: in forward, for images of a size that the file was not made for.
    """

    def __init__(self, call: Callable[[Tensor], Tensor], facts: Facts, source: str) -> None:
        super().__init__()
        self.call, self.source = call, source
        self.sizes, self.channels = facts.sizes, facts.meta["channels"]

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise checks.InputError(
                f"{self.source} takes (B, {self.channels}, rows, columns), got {tuple(images.shape)}"
            )
        if self.sizes is not None and (reason := self.sizes.why_not(images.shape[2:])) is not None:
            raise checks.InputError(f"{self.source} cannot take images of this size: {reason}")
        return self.call(images)


@dataclass(frozen=True)
class Exported:
    """What a file of `attnconv export` holds: the network in eval mode, and the facts about it."""

    model: nn.Module
    facts: Facts
    path: Path
