"""Drawings of single runs: learning curves, and the curve of `attnconv lr-find`, which a terminal shows as well."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attnconv import checks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#4c6ef5", "#e8590c", "#2b8a3e", "#9c36b5")  # told apart by people who see fewer colours, too
SUGGESTIONS = {"steepest": "#e8590c", "valley": "#2b8a3e"}
WIDTH, HEIGHT = 64, 12


def curves_figure(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> "Figure":
    """Draw loss and top-1 accuracy over epochs: dashed in training, solid in validation.

    Args:
        runs: the rows of metrics.csv of each run, under the name that the legend shows.
    """
    checks.require("matplotlib", extra="train")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, quantity, label in zip(panels, ("loss", "top1"), ("loss (nats)", "top-1 accuracy (%)"), strict=True):
        for (name, rows), colour in zip(runs.items(), COLOURS * len(runs), strict=False):
            epochs = [row["epoch"] for row in rows]
            axes.plot(epochs, [row[f"train_{quantity}"] for row in rows], "--", color=colour, linewidth=1, alpha=0.6)
            axes.plot(epochs, [row[f"val_{quantity}"] for row in rows], color=colour, linewidth=2, label=name)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, title="validation; dashed: training", title_fontsize=8, fontsize=8)
    return figure


def lr_figure(curve: Mapping[str, Any]) -> "Figure":
    """Draw loss over learning rate: ``curve`` holds what LrCurve.to_dict gives."""
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
    """Return the smoothed loss in WIDTH x HEIGHT characters, with S and V below at the suggestions."""
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
    """Return where to cut the curve off: what diverges would flatten all else."""
    return losses[0] + 0.5 * max(losses[0] - min(losses), 0.1 * abs(losses[0]))
