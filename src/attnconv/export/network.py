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

    Args:
        widths: channels of its images and logits, as the file itself has them, if it says so.
    Raises:
        InputError: here if ``facts`` do not fit ``widths``; in forward, for images of a size that the file was not made
            for, and for logits that are not one finite number a class.
    """

    def __init__(
        self,
        call: Callable[[Tensor], Tensor],
        facts: Facts,
        source: str,
        *,
        widths: tuple[object, object] | None = None,
    ) -> None:
        super().__init__()
        self.call, self.source = call, source
        self.sizes, self.channels, self.classes = facts.sizes, facts.meta["channels"], len(facts.meta["classes"])
        channels, outputs = widths or (self.channels, self.classes)
        for what, said, has in (
            ("image channels", self.channels, channels),
            ("names of classes", self.classes, outputs),
        ):
            if said != has:
                raise checks.InputError(f"{source} is damaged: it has {said} {what}, and its network is of {has}")

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise checks.InputError(
                f"{self.source} takes (B, {self.channels}, rows, columns), got {tuple(images.shape)}"
            )
        if self.sizes is not None and (reason := self.sizes.why_not(images.shape[2:])) is not None:
            raise checks.InputError(f"{self.source} cannot take images of this size: {reason}")
        logits = self.call(images)
        if logits.ndim not in (2, 4) or logits.shape[1] != self.classes:
            raise checks.InputError(
                f"{self.source} gives {tuple(logits.shape)}, which is not one number for each of {self.classes} classes"
            )
        if not logits.isfinite().all():
            raise checks.InputError(f"{self.source} gives numbers that are not finite: it, or an image, is damaged")
        return logits


@dataclass(frozen=True)
class Exported:
    """What a file of `attnconv export` holds: the network in eval mode, and the facts about it."""

    model: nn.Module
    facts: Facts
    path: Path
