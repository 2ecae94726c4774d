"""What a network that tells far-pairs looks at: two images that differ in the far glyph alone, and its attention."""

from typing import TYPE_CHECKING

import torch

from attnconv import checks
from attnconv.explain import attention_maps, see_image
from attnconv.explain.figure import draw_attention
from attnconv.recipes import Trained
from attnconv.recipes.example import example_images
from attnconv.shown import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL_INCHES = (1.9, 1.25)  # two of them are as wide as a phone


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
    examples = example_images()
    seen = [see_image(example.image, trained.meta) for example in examples]
    points = [image.point(example.point) for image, example in zip(seen, examples, strict=True)]
    images = torch.stack([image.prepared for image in seen]).to(trained.device)  # (2, C, H, W)
    found = [attention_maps(trained.model, image, at)[-1] for image, at in zip(images, points, strict=True)]
    rows = 1 + max(attention.weights.shape[0] for attention in found)
    width, height = PANEL_INCHES
    figure = Figure(figsize=(width * len(found), height * rows), layout="constrained")
    grid = figure.subplots(rows, len(found), squeeze=False)
    classes = trained.meta["classes"]
    with torch.no_grad():
        chances = trained.model(images).softmax(1)  # (2, K)
    columns = zip(grid.T, examples, seen, points, found, chances, strict=True)
    for column, example, image, point, attention, chance in columns:
        likely = int(chance.argmax())
        title = f"{example.label}\nnetwork: {shown(classes[likely])}, {100 * chance[likely]:.1f}%"
        draw_attention(column, image.pixels, attention, point, title=title)
    return figure
