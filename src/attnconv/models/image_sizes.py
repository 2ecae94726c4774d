"""The image sizes that a network takes.

Letters: C channels, H rows, W columns.
"""

import copy
import functools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnconv import checks
from attnconv.layers.attention import Attention

Range = tuple[int, int | None]  # least and most, None without end
# Pixels a side: no network here needs more to run at all; and nothing above is looked for.
LEAST, LARGEST = 64, 1 << 14


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
        """Return the reason why an image of ``size`` (rows, columns) is not taken, as a clause; None if it is."""
        for name, (low, high), n in zip(("rows", "columns"), (self.rows, self.columns), size, strict=True):
            if n < low or (high is not None and n > high):
                return f"it takes {range_text((low, high))} {name}, got {n}"
        return None

    def to_dict(self) -> dict[str, list[int | None]]:
        """Return plain values, as the files carry them."""
        return {"rows": list(self.rows), "columns": list(self.columns)}

    @classmethod
    def from_dict(cls, values: Any) -> "Sizes":
        """Return what `to_dict` gave; raise ValueError, TypeError or KeyError for anything else."""
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
    """Return the sizes that ``model`` takes: from the smallest at which it runs to the largest that its tables cover.

    Args:
        model: (B, C, H, W) -> anything.
        channels: C.
        image_size: rows, columns that must be among them; any if None.
    Raises:
        InputError: a position table does not cover ``image_size``, or the network refuses it, or takes no size.
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
    """Pass if ``model`` takes images of that size; InputError as `sizes_of`."""
    rows, columns = image_size
    _Probe(model, channels).require(rows, columns)


def _largest(start: int, takes: Any) -> int:
    """Return the last number from ``start`` on that ``takes``, which says no from some number on."""
    step = 1
    while start + step <= LARGEST and takes(start + step):
        step *= 2
    low, high = start + step // 2, start + step  # taken, and not taken
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if takes(middle) else (low, middle)
    return low


class _Probe:
    """The network on the meta device, where nothing is computed, run as if its tables never ended."""

    def __init__(self, model: nn.Module, channels: int) -> None:
        self.model, self.channels = copy.deepcopy(model).to("meta").eval(), channels
        self.layers: dict[str, Attention] = {}
        self.maps: dict[str, tuple[int, ...]] = {}
        for name, layer in self.model.named_modules():
            if isinstance(layer, Attention) and layer.largest_map is not None:
                layer.register_forward_hook(functools.partial(self._see, name))
                self.layers[name] = layer

    def uncovered(self, rows: int, columns: int) -> tuple[str, tuple[int, ...], Any] | None:
        """Return the first layer with tables too small for such an image, its map and its feat_size."""
        self.maps.clear()
        with torch.no_grad(), ExitStack() as stack:
            for layer in self.layers.values():
                stack.enter_context(layer.tables_ignored())
            self.model(torch.empty(2, self.channels, rows, columns, device="meta"))
        for name, map_size in self.maps.items():
            feat_size = self.layers[name].largest_map
            assert feat_size is not None
            if any(n > covered for n, covered in zip(map_size, feat_size, strict=True)):
                return name, map_size, feat_size
        return None

    def require(self, rows: int, columns: int) -> None:
        """Pass if the tables cover such an image."""
        if (found := self.uncovered(rows, columns)) is not None:
            name, map_size, feat_size = found
            raise checks.InputError(
                f"images of {rows} x {columns} are larger than the position tables: layer {name!r} gets a map of "
                f"{map_size} and its tables cover feat_size={feat_size}; attnconv.surgery.resize_feat_size(model, "
                f"({rows}, {columns})) fits all tables"
            )

    def takes(self, rows: int, columns: int) -> bool:
        try:
            return self.uncovered(rows, columns) is None
        except (checks.InputError, RuntimeError):  # an image smaller than the network's windows
            return False

    def _see(self, name: str, _layer: nn.Module, _inputs: Any, y: Tensor) -> None:
        seen = self.maps.get(name, ())
        self.maps[name] = tuple(max(pair) for pair in zip(seen, y.shape[2:], strict=True)) if seen else (*y.shape[2:],)
