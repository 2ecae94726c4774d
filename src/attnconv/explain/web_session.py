"""The state of a tab of the page: an image, and what each network sees of it, says of it, and attends to.

All that a browser tab keeps is one Opened, which nothing changes; a further image is another one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attnconv.data.decode import decode_bytes
from attnconv.data.image_data import topk
from attnconv.explain.attention import AttentionMap, ImageAttention
from attnconv.explain.preprocessed_image import SeenImage, see_image

TOP = 5  # classes named
LONGEST_SHOWN = 1024  # pixels of the longer side of the picture on the page
NUMBERS = count()  # of images opened in this process


@dataclass(frozen=True, eq=False)
class WebNetwork:
    """A trained network in eval mode, and the facts of its images.

    Args:
        title: how the page calls it.
        meta: of a checkpoint: channels, image_size, resize_ratio, mean, std, classes, and dense if that is true.
        device: where the network is.
    Raises:
        ValueError: it has no attention layer that runs on a map of rows and columns.
    """

    title: str
    model: nn.Module
    meta: Mapping[str, Any]
    device: torch.device
    layers: dict[str, int] = field(init=False)  # heads of each attention layer, in the order in which they run
    # Held while the network runs: hooks record its activations, so that it must not run on two images at once.
    _running: Lock = field(init=False, default_factory=Lock)

    def __post_init__(self) -> None:
        black = torch.zeros(self.meta["channels"], *self.meta["image_size"], device=self.device)
        maps = ImageAttention(self.model, black).maps((0, 0))
        object.__setattr__(self, "layers", {found.layer: found.weights.shape[0] for found in maps})

    def look(self, seen: SeenImage) -> "Look":
        """Run the network, once, on what it sees of an image; may be called from several threads."""
        with self._running:
            return look_at(self.model, self.meta, self.device, seen)


@dataclass(frozen=True, eq=False)
class Look:
    """One network's look at an image."""

    seen: SeenImage
    attention: ImageAttention
    # Classes and their probabilities, the most likely first; None: it names pixels.
    likely: list[tuple[str, float]] | None

    def maps(self, point: tuple[int, int]) -> list[AttentionMap]:
        """Return what ``point`` of the image as it was given attends to; ValueError if the network does not see it."""
        return self.attention.maps(self.seen.point(point))


def look_at(model: nn.Module, meta: Mapping[str, Any], device: torch.device, seen: SeenImage) -> Look:
    """Run a network, on ``device`` and with the facts of a checkpoint, on what it sees of an image."""
    attention = ImageAttention(model, seen.prepared.to(device))
    likely = None if meta.get("dense") else topk(attention.output[0], meta["classes"], TOP)
    return Look(seen, attention, likely)


@dataclass(frozen=True, eq=False)
class WebImage:
    """An image file."""

    name: str
    content: np.ndarray  # uint8
    point: tuple[int, int] | None = None  # row and column of the first query; None: the middle of what is seen


@dataclass(frozen=True, eq=False)
class Opened:
    """An image, and each network's look at it."""

    name: str
    shown: Tensor  # (3, rows, columns) uint8, the image made small enough for a page
    size: tuple[int, int]  # rows, columns of the image held upright
    point: tuple[int, int]  # row and column of the first query, pixels of the image
    looks: tuple[Look, ...]  # of each network
    number: int = field(default_factory=lambda: next(NUMBERS), init=False)  # of no other one


def open_image(image: WebImage, networks: Sequence[WebNetwork]) -> Opened:
    """Return ``image`` decoded as `attnconv.data.decode_image` does, and every network's look at it.

    Raises:
        ValueError: it is no image, or too large.
    """
    wanted = {3, *(network.meta["channels"] for network in networks)}
    decoded = {channels: decode_bytes(image.content, channels, name=image.name) for channels in wanted}
    seen = [see_image(decoded[network.meta["channels"]], network.meta) for network in networks]
    looks = tuple(network.look(one) for network, one in zip(networks, seen, strict=True))
    rows, columns = seen[0].view.size
    point = image.point or seen[0].view.unseen((rows // 2, columns // 2))
    return Opened(image.name, _small(decoded[3]), seen[0].size, point, looks)


def _small(image: Tensor) -> Tensor:
    """At most so large as a page shows it, each pixel the mean of those that it stands for."""
    from torchvision.transforms.v2 import functional

    rows, columns = image.shape[1:]
    scale = LONGEST_SHOWN / max(rows, columns)
    if scale >= 1:
        return image
    return functional.resize(image, [max(round(rows * scale), 1), max(round(columns * scale), 1)], antialias=True)
