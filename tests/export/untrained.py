"""Networks that no run has trained, with attention that is not shut off, and the facts of images for them."""

import torch
from torch import nn

from attnconv.models import create_model


def network(name, size, **options):
    """A small network in eval mode; its gammas, which start at 0, and its batch norms are drawn."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, in_channels=2, image_size=size, **options).eval()
    for key, parameter in model.named_parameters():
        if key.endswith("gamma") or (key.endswith("weight") and not parameter.any()):
            nn.init.uniform_(parameter, 0.5, 1)
    return model


def meta(size, **more):
    """As `ImageData.meta` gives it."""
    rows, columns = (size, size) if isinstance(size, int) else size
    return {
        "name": "drawn", "classes": ["one", "two", "three"], "channels": 2, "image_size": [rows, columns],
        "mean": [0.5, 0.4], "std": [0.2, 0.3], "resize_ratio": 1.0, **more,
    }  # fmt: skip
