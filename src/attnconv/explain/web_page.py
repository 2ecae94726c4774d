"""The answers of the page of `attnconv explain --web`: an image opened, and the pictures of one of its points.

Images are kept by number, the latest ones of all tabs, and nothing is written to a file. Answers hold plain values, and
pictures as addresses that contain them.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from attnconv import checks
from attnconv.data.decode import decode_bytes
from attnconv.explain.attention import AttentionMap, ImageAttention, choose_maps, drawable, without_map_text
from attnconv.explain.figure import data_uri, framed_photo, heads_title, panels, row_title
from attnconv.explain.look import Look, look_at
from attnconv.explain.preprocessed_image import see_image
from attnconv.shown import shown

KEPT = 100  # images of all tabs
GONE = "this image is no longer kept: drop it once more"


@dataclass(frozen=True, eq=False)
class WebNetwork:
    """A trained network in eval mode, and the facts of its images.

    Args:
        title: shown above its pictures.
        meta: of a checkpoint: channels, image_size, resize_ratio, mean, std, classes, and dense if that is true.
    Raises:
        ValueError: none of its attention layers has a map of at least 4 x 4 cells.
    """

    title: str
    model: nn.Module
    meta: Mapping[str, Any]
    device: torch.device
    layers: list[str] = field(init=False)  # those that can be drawn, in the order in which they run

    def __post_init__(self) -> None:
        black = torch.zeros(self.meta["channels"], *self.meta["image_size"], device=self.device)
        maps = ImageAttention(self.model, black).maps((0, 0))
        object.__setattr__(self, "layers", [found.layer for found in drawable(maps)])


@dataclass(frozen=True, eq=False)
class WebImage:
    """An image file."""

    name: str
    content: np.ndarray  # uint8
    point: tuple[int, int] | None = None  # row and column of the first query; the middle of the image if None


class WebPage:
    """Networks, sample images, and the images that were opened.

    Args:
        networks: at least one.
        samples: offered on the page; a tab begins with the first.
        grad_cam: show Grad-CAM beside attention.
    """

    def __init__(
        self, networks: Sequence[WebNetwork], samples: Sequence[WebImage] = (), *, grad_cam: bool = False
    ) -> None:
        self.networks, self.samples, self.grad_cam = networks, samples, grad_cam
        self._kept: OrderedDict[int, list[Look]] = OrderedDict()
        self._opened = 0
        self._running = threading.Lock()  # hooks record a network's activations: one image at a time

    def describe(self) -> dict[str, Any]:
        """Return the networks, their layers and the names of the sample images."""
        networks = [{"title": shown(one.title), "layers": [shown(n) for n in one.layers]} for one in self.networks]
        return {"networks": networks, "samples": [shown(image.name) for image in self.samples]}

    def open(self, image: WebImage) -> dict[str, Any]:
        """Run each network on an image, keep that, and return its number, picture and predictions.

        Raises:
            ValueError: it is no image, or too large.
        """
        decoded = {
            channels: decode_bytes(image.content, channels, name=image.name)
            for channels in {network.meta["channels"] for network in self.networks}
        }
        with self._running:
            looks = [
                look_at(one.model, one.meta, one.device, see_image(decoded[one.meta["channels"]], one.meta))
                for one in self.networks
            ]
            self._opened += 1
            number = self._opened
            self._kept[number] = looks
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        seen = looks[0].seen
        return {
            "image": number,
            "name": shown(image.name),
            "size": seen.size,
            "drawn": seen.drawn,
            "remark": seen.remark,
            "point": image.point or seen.middle,
            "picture": data_uri(framed_photo(seen)),
            "predictions": [look.likely and [(shown(name), chance) for name, chance in look.likely] for look in looks],
        }

    def attend(self, number: int, point: tuple[int, int], layers: Sequence[int], *, heads: bool) -> list[Any]:
        """Return the pictures of one point, or why there are none, for each network.

        Args:
            number: of an image that `open` returned.
            point: row and column in the image.
            layers: for each network, the place of a layer among its `layers`.
            heads: with a picture of each head.
        Raises:
            ValueError: the image is no longer kept.
        """
        looks = self._kept.get(number)
        if looks is None:
            raise checks.InputError(GONE)
        chosen = [network.layers[layer] for network, layer in zip(self.networks, layers, strict=True)]
        return [self._pictures(look, point, layer, heads) for look, layer in zip(looks, chosen, strict=True)]

    def _pictures(self, look: Look, point: tuple[int, int], layer: str, heads: bool) -> dict[str, Any]:
        try:
            (found,) = choose_maps(look.maps(point), layer=layer)
        except checks.InputError as error:
            return {"note": f"{error}."}
        with self._running:
            cam = look.grad_cam(layer) if self.grad_cam else None
        drawn = panels(look.seen, found, look.seen.point(point), cam=cam)[1:]
        chosen = [panel for panel in drawn if heads or not panel.is_head]
        return {
            "pictures": [{"title": p.title, "head": p.is_head, "picture": data_uri(p.pixels)} for p in chosen],
            "heads": heads_title(found),
            "note": _note(found, look.attention.without_map),
        }


def _note(found: AttentionMap, without_map: Sequence[str]) -> str:
    """Return sentences about a layer: its map, the meaning of its colours, layers without a map."""
    said = [row_title(found)]
    if found.remark:
        said.append(f"The layer is {found.remark}, so its weights are not drawn")
    elif found.signed:
        said.append("Signed weights: red adds, blue subtracts; they do not sum to 1")
    else:
        said.append("The weights of a head sum to 1")
    if found.gamma is not None:
        said.append(f"The layer multiplies the sum by gamma, {found.gamma:.2g}, and adds it to its input")
    if without_map:
        said.append(without_map_text(without_map))
    return shown(". ".join(said) + ".")
