"""Attention on far-pairs, whose answer is known to be far away: two glyphs at the ends of an image, alike or not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from attnconv import checks
from attnconv.data import load_data
from attnconv.data.generated import LEVEL
from attnconv.explain.attention import drawable
from attnconv.explain.figure import Row, rows_figure
from attnconv.explain.look import look_at
from attnconv.explain.preprocessed_image import see_image
from attnconv.shown import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAR_PAIRS = "far-pairs"
SHOWN = (2, 0)  # of the first four validation images, which share the left glyph: a different and a same pair


@dataclass(frozen=True, eq=False)
class FarPair:
    """A validation image of far-pairs."""

    image: Tensor  # (1, rows, columns) uint8
    label: str
    point: tuple[int, int]  # row and column of the middle of the left glyph


def far_pairs_images() -> list[FarPair]:
    """Return two validation images of far-pairs, "different" and "same", that differ in the right glyph alone."""
    data: Any = load_data(FAR_PAIRS)
    found = []
    for image, label in zip(data.val.images[list(SHOWN)], data.val.labels[list(SHOWN)].tolist(), strict=True):
        at = (image[0, :, : image.shape[2] // 2] >= LEVEL).nonzero()  # glyphs are brighter than any ground
        row, column = ((at.amin(0) + at.amax(0)) // 2).tolist()
        found.append(FarPair(image, data.classes[label], (row, column)))
    return found


def far_pairs_rows(trained: Any) -> list[Row]:
    """Return a row for each of two images, different and same: attention of the left glyph in the last layer.

    The images are the first of validation, right or wrong; the prediction stands above each.

    Args:
        trained: a network with attention, trained on far-pairs, as `attnconv.recipes.load_trained` gives it.
    Raises:
        ValueError: it was trained on other data, or has no attention.
    """
    if trained.config.data != FAR_PAIRS:
        raise checks.InputError(f"the run must be one on {FAR_PAIRS!r}, got one on {trained.config.data!r}")
    rows = []
    for example in far_pairs_images():
        look = look_at(trained.model, trained.meta, trained.device, see_image(example.image, trained.meta))
        found = drawable(look.maps(example.point))[-1]
        assert look.likely is not None
        name, chance = look.likely[0]
        title = f"pair: {example.label}; network: {shown(name)}, {100 * chance:.1f}%"
        rows.append(Row(look.seen, look.seen.point(example.point), found, title, photo_point=example.point))
    return rows


def far_pairs_text(rows: Sequence[Row]) -> str:
    """Return sentences about `far_pairs_rows`: how much of the weight lies on the right glyph's half of the image."""
    # (N, H, W): the right half of the columns
    shares = [float(row.found.weights[..., row.found.weights.shape[2] // 2 :].sum(2).sum(1).mean()) for row in rows]
    different, same = (f"{100 * share:.0f} %" for share in shares)
    return (
        f"Of the left glyph's weight, {different} lies on the right half of the image if the glyphs differ, and "
        f"{same} if they are the same. A head may put its weight on the query's own glyph and still use the right one. "
        "It compares the query with all cells before it spreads its weight. The two images differ in the right glyph "
        "alone, so only this comparison can have moved the weight."
    )


def far_pairs_figure(trained: Any) -> "Figure":
    """Draw `far_pairs_rows`."""
    return rows_figure(far_pairs_rows(trained))
