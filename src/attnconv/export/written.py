"""What every export does around its own format: the folded network, the sizes, and what is told of the file."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from attnconv import checks
from attnconv.export.agreement import Difference
from attnconv.export.capture import require_exportable
from attnconv.export.facts import Facts
from attnconv.models.fold import folded
from attnconv.models.image_sizes import Sizes, sizes_of


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


def prepared(model: nn.Module, facts: Facts, image_size: int | None) -> tuple[nn.Module, Facts]:
    """The folded copy of ``model``, and ``facts`` with the sizes that it takes, for images of ``image_size`` if given.

    Raises:
        InputError: a kernel that cannot be exported, or tables that do not cover the size.
    """
    require_exportable(model)
    facts = prepared_to(facts, image_size)
    model = folded(model).requires_grad_(False)
    return model, replace(facts, sizes=sizes_of(model, facts.meta["channels"], facts.meta["image_size"]))


def prepared_to(facts: Facts, image_size: int | None) -> Facts:
    """``facts`` for images that are prepared to ``image_size``; as they are for None."""
    if image_size is None:
        return facts
    side = checks.integer("image_size", image_size, at_least=1)
    # In the run's words, too: its own images are prepared to this size from now on.
    return replace(facts, meta={**facts.meta, "image_size": [side, side]}, config={**facts.config, "image_size": side})


def with_free_sizes(model: nn.Module, facts: Facts, write: Callable[[Sizes], Written]) -> Written:
    """What ``write`` makes of the network's sizes or, where an exporter cannot keep them free, of the one size.

    Raises:
        DisagreementError: the answers differ even then.
    """
    assert facts.sizes is not None
    try:
        return write(facts.sizes)
    # What torch's exporters raise for a size that they cannot keep free is a RuntimeError, as a disagreement is.
    except RuntimeError as error:
        if not facts.sizes.dynamic:
            raise
        reason = checks.first_line(error)
        rows, columns = facts.meta["image_size"]
        written = write(Sizes((rows, rows), (columns, columns)))
    return replace(written, notes=(*written.notes, f"the image size is fixed, for with free ones: {reason}"))
