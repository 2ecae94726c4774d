"""The curve of `attnconv lr-find`: as a figure, and in characters for a terminal."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attnconv import checks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUGGESTIONS = {"steepest": "#e8590c", "valley": "#2b8a3e"}
WIDTH, HEIGHT = 64, 12


def lr_figure(curve: Mapping[str, Any]) -> "Figure":
    """Loss over learning rate: ``curve`` holds what LrCurve.to_dict gives."""
    checks.require("matplotlib", extra="train")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve["lrs"], curve["losses"], color="#adb5bd", linewidth=1, label="loss of a step")
    axes.plot(curve["lrs"], curve["smoothed"], color="#4c6ef5", linewidth=2, label="smoothed")
    for name, colour in SUGGESTIONS.items():
        if (lr := curve[name]) is not None:
            axes.axvline(lr, color=colour, linestyle="--", linewidth=1, label=f"{name}: {lr:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss (nats)", ylim=(None, _ceiling(curve["smoothed"])))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure


def lr_drawing(curve: Mapping[str, Any]) -> str:
    """The smoothed loss in WIDTH x HEIGHT characters, with S and V below at the suggestions."""
    lrs, losses = curve["lrs"], curve["smoothed"]
    low, high = min(losses), min(max(losses), _ceiling(losses))
    left, right = math.log(lrs[0]), math.log(lrs[-1])

    def column(lr: float) -> int:
        return round((math.log(lr) - left) / max(right - left, 1e-12) * (WIDTH - 1))

    cells = [[" "] * WIDTH for _ in range(HEIGHT)]
    for lr, loss in zip(lrs, losses, strict=True):
        row = round((high - min(loss, high)) / max(high - low, 1e-12) * (HEIGHT - 1))
        cells[row][column(lr)] = "*"
    marks = [" "] * WIDTH
    for name in SUGGESTIONS:
        if curve[name] is not None:
            marks[column(curve[name])] = name[0].upper()
    lines = ["".join(row).rstrip() for row in cells]
    lines[0] = f"{high:8.3g} |{lines[0]}"
    lines[-1] = f"{low:8.3g} |{lines[-1]}"
    lines[1:-1] = [f"{'':8} |{line}" for line in lines[1:-1]]
    return "\n".join(
        [
            *lines,
            f"{'loss':>8} +{'-' * WIDTH}",
            f"{'':10}{''.join(marks).rstrip()}",
            f"{'':10}{f'{lrs[0]:.0e}':<{WIDTH - 6}}{lrs[-1]:>6.0e}  learning rate",
        ]
    )


def _ceiling(losses: Sequence[float]) -> float:
    """Where to cut the curve off: what diverges would flatten all else."""
    return losses[0] + 0.5 * max(losses[0] - min(losses), 0.1 * abs(losses[0]))
