"""A network for the page that needs no training, and an image file for it."""

import torch

from attnconv.data.decode import read_bytes
from attnconv.explain.web_page import WebImage, WebNetwork
from attnconv.models import create_model

CPU = torch.device("cpu")


def network(model="aa_convnet3", *, image_size=(32, 48), channels=3, resize_ratio=1.25, classes=10, **meta):
    torch.manual_seed(0)
    made = create_model(model, num_classes=classes, in_channels=channels, image_size=image_size).eval()
    facts = {
        "classes": [f"class {i}" for i in range(classes)],
        "channels": channels,
        "image_size": list(image_size),
        "resize_ratio": resize_ratio,
        "mean": [0.5] * channels,
        "std": [0.25] * channels,
    }
    return WebNetwork("a network", made, {**facts, **meta}, CPU)


def web_image(path, **options):
    return WebImage(path.name, read_bytes(path), **options)
