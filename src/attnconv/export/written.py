"""What every export does around its own format: the folded network, the sizes, and what is told of the file."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from attnconv import checks
from attnconv.export.agreement import Difference, DisagreementError
from attnconv.export.capture import require_exportable
from attnconv.export.facts import Facts
from attnconv.export.fold import folded
from attnconv.export.sizes import Sizes, sizes_of


@dataclass(frozen=True)
class Written:
    """A file that an export has kept.

    Args:
        path: of the file.
        sizes: of the images that it takes; None of weights alone.
        differences: from PyTorch, case by case.
        notes: what else is worth telling, a clause each.
    """

    path: Path
    sizes: Sizes | None
    differences: list[Difference] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def largest(self) -> Difference:
        """The difference that is the largest beside its outputs."""
        return max(self.differences, key=lambda d: d.largest / (d.scale or 1.0))


def prepared(
    model: nn.Module, *, config: dict[str, Any], meta: dict[str, Any], image_size: int | None
) -> tuple[nn.Module, Facts]:
    """The folded copy of ``model``, and what its file will say.

    Raises:
        InputError: a kernel that cannot be exported, or tables that do not cover ``image_size``.
    """
    require_exportable(model)
    if image_size is not None:
        side = checks.integer("image_size", image_size, at_least=1)
        meta = {**meta, "image_size": [side, side]}
    model = folded(model).requires_grad_(False)
    return model, Facts(config, meta, sizes_of(model, meta["channels"], meta["image_size"]))


def with_free_sizes(model: nn.Module, facts: Facts, write: Callable[[Sizes], Written]) -> Written:
    """What ``write`` makes of the network's sizes or, where an exporter cannot keep them free, of the one size.

    Raises:
        DisagreementError: the answers differ even then.
    """
    assert facts.sizes is not None
    try:
        return write(facts.sizes)
    except checks.InputError:  # nothing that a fixed size would mend
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        rows, columns = facts.meta["image_size"]
        try:
            written = write(Sizes((rows, rows), (columns, columns)))
        except DisagreementError:
            raise
    return replace(written, notes=(*written.notes, f"the image size is fixed, for with free ones: {reason}"))
