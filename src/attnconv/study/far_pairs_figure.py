"""What a network that tells far-pairs looks at: two images that differ in the far glyph alone, and its attention."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attnconv import checks
from attnconv.explain import attention_maps
from attnconv.explain.figure import draw_attention
from attnconv.recipes import load_trained
from attnconv.recipes.images import images_of, loaders_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL_INCHES = (1.9, 1.35)
SHOWN = (0, 2)  # of the first four validation images, which show aa, bb, ab, ba: they share the left glyph


def far_pairs_figure(run: Path) -> "Figure":
    """A row for each of two images, same and different: the image, then each head's attention in the last layer.

    The images are validation's first, whatever the network says of them; what it says stands above them. The query is
    the centre of the left glyph. Heads share a colour scale from 0 to the row's largest weight.

    Args:
        run: folder of a run of a network with attention on far-pairs.
    Raises:
        InputError: there is no such run, it is of other data, or its network has no attention.
    """
    checks.require("matplotlib", extra="train")
    from matplotlib.figure import Figure

    trained = load_trained(run, device="cpu")
    if trained.config.data != "far-pairs":
        raise checks.InputError(f"{run} must be a run on 'far-pairs', and is one on {trained.config.data!r}")
    _, loader = loaders_of(trained.config, images_of(trained.config), trained.device)
    images, labels = next(iter(loader.epoch(0)))
    found = []
    for number in SHOWN:
        point = centre_of_left_glyph(images[number])
        found.append((point, attention_maps(trained.model, images[number], point)[-1]))
    columns = 1 + max(attention.weights.shape[0] for _, attention in found)
    width, height = PANEL_INCHES
    figure = Figure(figsize=(width * columns, height * len(found)), layout="constrained")
    grid = figure.subplots(len(found), columns, squeeze=False)
    classes = trained.meta["classes"]
    with torch.no_grad():
        chances = trained.model(images[list(SHOWN)]).softmax(1)  # (2, K)
    for row, number, chance, (point, attention) in zip(grid, SHOWN, chances, found, strict=True):
        likely = int(chance.argmax())
        title = f"{classes[int(labels[number])]}\nnetwork: {classes[likely]}, {100 * chance[likely]:.1f}%"
        draw_attention(row, shades(images[number]), attention, point, title=title)
    return figure


def centre_of_left_glyph(image: Tensor) -> tuple[int, int]:
    """Row and column, pixels, of the middle of what is bright in the left half of ``image`` (1, rows, columns)."""
    left = shades(image)[0, :, : image.shape[2] // 2]
    rows, columns = torch.nonzero(left > 0.5, as_tuple=True)  # the ground is less than half as bright as any glyph
    return tuple(int(at.min() + at.max()) // 2 for at in (rows, columns))  # pyright: ignore[reportReturnType]


def shades(image: Tensor) -> Tensor:
    """From 0, the darkest of its pixels, to 1."""
    return (image - image.min()) / (image.max() - image.min())
