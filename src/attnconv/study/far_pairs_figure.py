"""What a network that tells far-pairs looks at: two images that differ in the far glyph alone, and its attention."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attnconv import checks
from attnconv.explain import attention_maps
from attnconv.explain.figure import draw_attention
from attnconv.recipes import Trained
from attnconv.recipes.images import images_of, loaders_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL_INCHES = (1.9, 1.25)  # two of them are as wide as a phone
SHOWN = (0, 2)  # of the first four validation images, which show aa, bb, ab, ba: they share the left glyph


def far_pairs_figure(trained: Trained) -> "Figure":
    """A column for each of two images, same and different: the image, then each head's attention in the last layer.

    The images are validation's first, whatever the network says of them; what it says stands above them. The query is
    the centre of the left glyph. Heads share a colour scale from 0 to the column's largest weight.

    Args:
        trained: a network with attention, trained on far-pairs.
    Raises:
        InputError: it was trained on other data, or has no attention.
    """
    checks.require("matplotlib", extra="train")
    from matplotlib.figure import Figure

    if trained.config.data != "far-pairs":
        raise checks.InputError(f"the run must be one on 'far-pairs', and is one on {trained.config.data!r}")
    _, loader = loaders_of(trained.config, images_of(trained.config), trained.device)
    images, labels = next(iter(loader.epoch(0)))
    found = []
    for number in SHOWN:
        point = centre_of_left_glyph(images[number])
        found.append((point, attention_maps(trained.model, images[number], point)[-1]))
    rows = 1 + max(attention.weights.shape[0] for _, attention in found)
    width, height = PANEL_INCHES
    figure = Figure(figsize=(width * len(found), height * rows), layout="constrained")
    grid = figure.subplots(rows, len(found), squeeze=False)
    classes = trained.meta["classes"]
    with torch.no_grad():
        chances = trained.model(images[list(SHOWN)]).softmax(1)  # (2, K)
    for column, number, chance, (point, attention) in zip(grid.T, SHOWN, chances, found, strict=True):
        likely = int(chance.argmax())
        title = f"{classes[int(labels[number])]}\nnetwork: {classes[likely]}, {100 * chance[likely]:.1f}%"
        draw_attention(column, shades(images[number]), attention, point, title=title)
    return figure


def centre_of_left_glyph(image: Tensor) -> tuple[int, int]:
    """Row and column, pixels, of the middle of what is bright in the left half of ``image`` (1, rows, columns)."""
    left = shades(image)[0, :, : image.shape[2] // 2]
    rows, columns = torch.nonzero(left > 0.5, as_tuple=True)  # the ground is less than half as bright as any glyph
    return tuple(int(at.min() + at.max()) // 2 for at in (rows, columns))  # pyright: ignore[reportReturnType]


def shades(image: Tensor) -> Tensor:
    """From 0, the darkest of its pixels, to 1."""
    return (image - image.min()) / (image.max() - image.min())
