"""The effect of each attention layer on a network's answer for one image: the answer with and without the layer.

Letters: B batch, K classes, H rows, W columns.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from attnconv.inactive import is_inactive
from attnconv.layers.attention import LogitChange, attention_off


@dataclass(frozen=True)
class Effect:
    """The effect of switching a layer off.

    ``logits_moved`` is a share of the logits' norm, None if the network does not give finite logits; a layer is
    ``active`` unless it moves them too little to count and leaves the prediction.
    """

    logits_moved: float | None = None
    active: bool = True


def effects_of(model: nn.Module, images: Tensor, output: Any, layers: Collection[nn.Module]) -> dict[nn.Module, Effect]:
    """Return the effect of each of ``layers`` on ``output``, (B, K) or (B, K, H, W): a run of the network for each.

    Of an output that is no tensor of logits nothing is known, and every layer counts as active.
    """
    if not isinstance(output, Tensor) or output.dim() < 2 or not output.is_floating_point():
        return dict.fromkeys(layers, Effect())
    found = {}
    for layer in layers:
        change = LogitChange()
        with attention_off(model, only=[layer]):
            change.add(output, model(images))
        moved = change.logits_moved
        inactive = is_inactive(moved, change.predictions_changed)
        found[layer] = Effect(moved, not inactive) if math.isfinite(moved) else Effect()
    return found
