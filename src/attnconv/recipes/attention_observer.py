"""Observe the attention of a run: gammas and shares each epoch, and at the end what the network is without it.

Letters: B batch, K classes, H rows, W columns.
"""

from typing import Any

from torch import Tensor, nn

from attnconv.layers.attention import Attention, LogitChange, attention_activity, attention_off
from attnconv.train.evaluate import Loader, evaluate


class AttentionObserver:
    """The trainer's Observer of attention layers; it says nothing of a network that has none."""

    def epoch(self, model: nn.Module, images: Tensor) -> dict[str, float]:
        return attention_activity(model, images)

    def end(self, model: nn.Module, loader: Loader) -> dict[str, Any]:
        """Return ``attention_off``: the scores with attention switched off, and how far that moves the answers.

        top1, top5 and, of pixels, miou in percent; logits_moved as a share of the logits' norm; predictions_changed in
        percent of the images, or of their pixels.
        """
        if not any(isinstance(module, Attention) for module in model.modules()):
            return {}
        compared = OnAndOff(model)
        scores = evaluate(compared, loader)
        found = {"top1": scores.top1, "top5": scores.top5, **({} if scores.miou is None else {"miou": scores.miou})}
        return {"attention_off": {**found, **compared.difference()}}


class OnAndOff(nn.Module):
    """``model`` with its attention switched off; it compares each answer with that of the whole network.

    Shapes: (B, C, H, W) -> logits (B, K) or (B, K, H, W).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.moved = LogitChange()

    def forward(self, x: Tensor) -> Tensor:
        whole = self.model(x)
        with attention_off(self.model):
            off = self.model(x)
        self.moved.add(whole, off)
        return off

    def difference(self) -> dict[str, float]:
        """Return logits_moved and predictions_changed of all images so far."""
        return {
            "logits_moved": self.moved.logits_moved,
            "predictions_changed": self.moved.predictions_changed,
        }
