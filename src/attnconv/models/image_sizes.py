"""Which image sizes a network takes, found by trying them on the meta device, where nothing is computed."""

import bisect

import torch
from torch import nn

from attnconv import checks
from attnconv.layers.augmented_conv import AugmentedConvNd

LEAST, LARGEST = 64, 1 << 14  # pixels a side: no network here needs more, and nothing above is looked for


def image_sizes(model: nn.Module, channels: int) -> tuple[int, tuple[int, int] | None] | None:
    """The least side and, where position tables end, the most rows and columns, pixels; None if it takes no image.

    Args:
        model: (B, channels, rows, columns) -> anything; on the meta device, in eval mode.
    """

    def refuses(rows: int, columns: int) -> bool:
        try:
            with torch.no_grad():
                model(torch.empty(1, channels, rows, columns, device="meta"))
        except (checks.InputError, RuntimeError):  # the latter of an image smaller than a window
            return True
        return False

    least = next((side for side in range(1, LEAST + 1) if not refuses(side, side)), None)
    if least is None:
        return None
    if not any(isinstance(layer, AugmentedConvNd) and layer.position == "relative" for layer in model.modules()):
        return least, None
    sides = range(LARGEST)
    rows = bisect.bisect(sides, False, lo=least, key=lambda side: refuses(side, least)) - 1
    columns = bisect.bisect(sides, False, lo=least, key=lambda side: refuses(least, side)) - 1
    return least, (rows, columns)
