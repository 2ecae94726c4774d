"""One network's look at an image: its prediction, its attention, and Grad-CAM to compare with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnconv import checks
from attnconv.data.image_data import topk
from attnconv.explain.attention import AttentionMap, ImageAttention
from attnconv.explain.preprocessed_image import SeenImage

TOP = 5  # classes named


@dataclass(frozen=True, eq=False)
class Look:
    """A network's prediction for an image, and the attention of each of its points."""

    model: nn.Module
    seen: SeenImage
    attention: ImageAttention
    likely: list[tuple[str, float]] | None  # classes and probabilities, the most likely first; None if it labels pixels

    def maps(self, point: tuple[int, int]) -> list[AttentionMap]:
        """Return the maps of ``point`` of the image as given; ValueError if the network does not see it."""
        return self.attention.maps(self.seen.point(point))

    def grad_cam(self, layer: str) -> Tensor:
        """Return `grad_cam` of the predicted class; ValueError if the network labels pixels."""
        if self.likely is None:
            raise checks.InputError("Grad-CAM explains a class of the whole image; this network labels pixels")
        return grad_cam(self.model, self.attention.image, layer)


def look_at(model: nn.Module, meta: Mapping[str, Any], device: torch.device, seen: SeenImage) -> Look:
    """Run a network, on ``device`` and with the facts of a checkpoint, on what it sees of an image."""
    attention = ImageAttention(model, seen.prepared.to(device))
    likely = None if meta.get("dense") else topk(attention.output[0], meta["classes"], TOP)
    return Look(model, seen, attention, likely)


def grad_cam(model: nn.Module, image: Tensor, layer: str) -> Tensor:
    """Return Grad-CAM of the most likely class at the output of a layer, by pytorch-grad-cam.

    Source: Selvaraju et al. 2017, arXiv:1610.02391.

    Args:
        model: a classifier in eval mode.
        image: (C, rows, columns), prepared as for the network, on its device.
        layer: dotted name of a layer that gives a map.
    Returns:
        (rows, columns), 0 to 1, at the size of the image.
    Raises:
        ValueError: pytorch-grad-cam is not installed.
    """
    package = checks.require("pytorch_grad_cam", extra="cam")
    with package.GradCAM(model=model, target_layers=[model.get_submodule(layer)]) as cam:
        return torch.from_numpy(cam(input_tensor=image[None], targets=None)[0])
