"""What surgery did to a network: a list that prints as a table."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Change:
    """One place of the network."""

    name: str  # dotted, as in model.get_submodule(name)
    before: str
    after: str
    map_size: tuple[int, ...]  # of the module's output in the trace, in cells
    params_before: int
    params_after: int


class Changes(list[Change]):
    """A list of `Change`; ``str()`` of it is a plain-text table that ends with the parameters gained."""

    def __str__(self) -> str:
        rows = [("name", "before", "after", "map", "params")]
        for c in self:
            numbers = f"{c.params_before:,} -> {c.params_after:,}"
            rows.append((c.name, c.before, c.after, size_text(c.map_size), numbers))
        more = sum(c.params_after - c.params_before for c in self)
        rows.append((f"{len(self)} change{'s' * (len(self) != 1)}", "", "", "", f"{more:+,}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        align = (str.ljust, str.ljust, str.ljust, str.rjust, str.rjust)
        return "\n".join(
            "  ".join(put(cell, width) for put, cell, width in zip(align, row, widths, strict=True)) for row in rows
        )


def params(*modules: nn.Module) -> int:
    """How many parameters ``modules`` have."""
    return sum(p.numel() for module in modules for p in module.parameters())


def size_text(size: Iterable[int]) -> str:
    """(3, 5) as "3x5"."""
    return "x".join(map(str, size))
