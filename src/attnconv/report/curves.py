"""Learning curves of several runs, drawn into one figure."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from attnconv import checks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#4c6ef5", "#e8590c", "#2b8a3e", "#9c36b5")  # told apart by people who see fewer colours, too


def curves_figure(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> "Figure":
    """Loss and top-1 accuracy over epochs: dashed in training, solid in validation.

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
