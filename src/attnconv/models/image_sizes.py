"""Image sizes that a network takes.

Letters: C channels, H rows, W columns.
"""

import bisect
import contextlib
import copy
import itertools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from attnconv import checks
from attnconv.layers.attention import Attention
from attnconv.surgery.network import trace

Range = tuple[int, int | None]  # least and most; None: no limit
LEAST = 64  # pixels per side with which every network here runs
LARGEST = 1 << 14  # pixels per side up to which sizes are tried


@dataclass(frozen=True)
class Sizes:
    """Image sizes, in pixels, that a network takes."""

    rows: Range
    columns: Range

    @property
    def dynamic(self) -> bool:
        """True if there is more than one."""
        return any(low != high for low, high in (self.rows, self.columns))

    def why_not(self, size: Sequence[int]) -> str | None:
        """Return why the network does not take an image of ``size`` (rows, columns), as a clause; None if it does."""
        for name, (low, high), n in zip(("rows", "columns"), (self.rows, self.columns), size, strict=True):
            if n < low or (high is not None and n > high):
                return f"it takes {range_text((low, high))} {name}, got {n}"
        return None

    def to_dict(self) -> dict[str, list[int | None]]:
        """Return plain values for a file."""
        return {"rows": list(self.rows), "columns": list(self.columns)}

    @classmethod
    def from_dict(cls, values: Any) -> "Sizes":
        """Return the sizes that `to_dict` wrote; raise ValueError, TypeError or KeyError for other values."""
        ranges = []
        for name in ("rows", "columns"):
            low, high = values[name]
            checks.integer(name, low, at_least=1)
            if high is not None:
                checks.integer(name, high, at_least=low)
            ranges.append((low, high))
        return cls(*ranges)

    def __str__(self) -> str:
        return f"{range_text(self.rows)} rows, {range_text(self.columns)} columns"


def range_text(found: Range) -> str:
    low, high = found
    if high is None:
        return f"{low} or more"
    return f"{low}" if low == high else f"{low} to {high}"


def sizes_of(model: nn.Module, channels: int, image_size: Sequence[int] | None = None) -> Sizes:
    """Return the sizes that ``model`` takes: from the smallest that runs to the largest that its tables cover.

    Args:
        model: a network of images (B, C, H, W).
        channels: C.
        image_size: rows and columns that the sizes must include; None: any.
    Raises:
        InputError: the position tables do not cover ``image_size``, or the network refuses it or every size.
    """
    probe = _Probe(model, channels)
    if image_size is None:
        rows = columns = next((n for n in range(1, LEAST + 1) if probe.takes(n, n)), LEAST)
    else:
        rows, columns = image_size
    probe.require(rows, columns)
    least = next(n for n in range(1, min(rows, columns) + 1) if n == min(rows, columns) or probe.takes(n, n))
    if not probe.layers:
        return Sizes((least, None), (least, None))
    return Sizes(
        (least, _largest(rows, lambda n: probe.takes(n, columns))),
        (least, _largest(columns, lambda n: probe.takes(rows, n))),
    )


def require_covered(model: nn.Module, channels: int, image_size: Sequence[int]) -> None:
    """Raise InputError unless ``model`` takes images of that size."""
    _Probe(model, channels).require(*image_size)


def _largest(start: int, takes: Callable[[int], bool]) -> int:
    """Return the largest number from ``start`` to LARGEST that ``takes`` accepts; it accepts all smaller ones."""
    steps = (start + 2**i for i in itertools.count())
    refused = next(n for n in steps if n > LARGEST or not takes(n))
    return start + bisect.bisect_left(range(start + 1, refused), True, key=lambda n: not takes(n))


class _Probe:
    """A copy of the network on the meta device, where nothing is computed, run without position tables."""

    def __init__(self, model: nn.Module, channels: int) -> None:
        self.model, self.channels = copy.deepcopy(model).to("meta").eval(), channels
        layers = {m: name for name, m in self.model.named_modules() if isinstance(m, Attention)}
        self.layers = {layer: name for layer, name in layers.items() if layer.largest_map is not None}

    def uncovered(self, rows: int, columns: int) -> tuple[str, tuple[int, ...], Any] | None:
        """Return the first layer whose tables are too small for such an image, its map size and its feat_size."""
        images = torch.empty(2, self.channels, rows, columns, device="meta")
        with ExitStack() as stack:
            for layer in self.layers:
                stack.enter_context(layer.tables_ignored())
            outputs = trace(self.model, self.layers, image_size=None, example=images)
        for layer, name in self.layers.items():
            for size in (output.map_size for output in outputs[layer]):
                if any(n > covered for n, covered in zip(size, layer.largest_map or (), strict=True)):
                    return name, size, layer.largest_map
        return None

    def require(self, rows: int, columns: int) -> None:
        """Raise InputError unless the tables cover such an image."""
        if (found := self.uncovered(rows, columns)) is not None:
            name, map_size, feat_size = found
            raise checks.InputError(
                f"images of {rows} x {columns} are larger than the position tables: layer {name!r} gets a map of "
                f"{map_size} and its tables cover feat_size={feat_size}; attnconv.surgery.resize_feat_size(model, "
                f"({rows}, {columns})) fits all tables"
            )

    def takes(self, rows: int, columns: int) -> bool:
        with contextlib.suppress(checks.InputError):  # an image smaller than the network's windows
            return self.uncovered(rows, columns) is None
        return False
