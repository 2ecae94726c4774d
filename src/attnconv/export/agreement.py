"""The comparison of an exported network with the one it was made from, before its file is kept.

Letters: B batch, H rows, W columns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnconv import checks
from attnconv.models.image_sizes import Sizes

BATCHES = (1, 2, 5)
# Of the largest output. Rounding alone is 1e-6 in most networks, and 3e-4 in an untrained aa_resnet50, the softmaxes of
# which are all but steps.
TOLERANCE = 1e-3


class DisagreementError(RuntimeError):
    """An exported network that computes something else."""


@dataclass(frozen=True)
class Difference:
    """The difference of two outputs for the same images."""

    batch: int
    rows: int
    columns: int
    largest: float  # absolute difference of two outputs
    scale: float  # largest absolute output of the original

    def __str__(self) -> str:
        return (
            f"{self.largest:.1e} of outputs up to {self.scale:.3g} (batch {self.batch}, {self.rows} x {self.columns})"
        )


def cases(sizes: Sizes, image_size: Sequence[int]) -> list[tuple[int, int, int]]:
    """Batch, rows, columns: three batches at ``image_size`` and, where they are free, two other sizes, not square."""
    rows, columns = image_size
    found = [(batch, rows, columns) for batch in BATCHES]
    if sizes.dynamic:
        (low, most), (left, widest) = sizes.rows, sizes.columns
        most, widest = most or rows + rows // 4 + 1, widest or columns + columns // 4 + 1
        found += [(2, low, widest), (3, (low + most + 1) // 2, left)]
    return found


@torch.no_grad()
def require_agreement(
    model: nn.Module,
    call: Callable[[Tensor], Tensor],
    *,
    sizes: Sizes,
    meta: Mapping[str, Any],
    what: str,
) -> list[Difference]:
    """Hold ``call`` to ``model``, both (B, channels, H, W) -> logits, on random images: the differences, case by case.

    Raises:
        InputError: ``model`` does not give one logit for each of the classes in ``meta``.
        DisagreementError: a difference is above TOLERANCE, outputs of either are not finite, or of another shape.
    """
    numbers = torch.Generator().manual_seed(0)
    differences = []
    for batch, rows, columns in cases(sizes, meta["image_size"]):
        images = torch.randn(batch, meta["channels"], rows, columns, generator=numbers)
        expected = model(images)
        _require_logits(expected, len(meta["classes"]))
        try:
            got = call(images)
        except Exception as error:  # of the runtime's own kind
            reason = checks.first_line(error)
            raise DisagreementError(f"{what} fails on {batch} images of {rows} x {columns}: {reason}") from error
        if got.shape != expected.shape:
            raise DisagreementError(
                f"{what} gives {tuple(got.shape)} for {batch} images of {rows} x {columns}, PyTorch "
                f"{tuple(expected.shape)}"
            )
        for whose, outputs in (("PyTorch", expected), (what, got)):  # inf is within any tolerance of inf
            if not outputs.isfinite().all():
                raise DisagreementError(
                    f"{what} cannot be compared with PyTorch: outputs of {whose} are not finite for {batch} images of "
                    f"{rows} x {columns}"
                )
        difference = Difference(batch, rows, columns, (got - expected).abs().max().item(), expected.abs().max().item())
        if not difference.largest <= TOLERANCE * difference.scale:
            raise DisagreementError(f"{what} differs from PyTorch by {difference}")
        differences.append(difference)
    return differences


def _require_logits(found: object, classes: int) -> None:
    if isinstance(found, Tensor) and found.ndim in (2, 4) and found.shape[1] == classes:
        return
    got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
    raise checks.InputError(
        f"the network must give one tensor, (B, {classes}) or (B, {classes}, rows, columns), for the {classes} classes "
        f"in meta, got {got}"
    )
