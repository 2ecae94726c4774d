"""The generated sets far-pairs, textures and far-context, which test how far a network sees.

They come from fixed seeds and have no options. Their scores say nothing about photographs.

Letters: N images, Q fours and P pairs of images, H rows, W columns, G the side of a glyph.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from attnconv import checks
from attnconv.data.image_data import ImageData, data_of_tensors
from attnconv.data.tensors import TensorSource

_DRAWN = {
    "plus": ("  #  ", "  #  ", "#####", "  #  ", "  #  "),
    "cross": ("#   #", " # # ", "  #  ", " # # ", "#   #"),
    "ring": ("#####", "#   #", "#   #", "#   #", "#####"),
    "bars": ("#####", "     ", "#####", "     ", "#####"),
}
GLYPHS = np.array([[[pixel == "#" for pixel in row] for row in rows] for rows in _DRAWN.values()])  # (4, G, G) bool
GLYPH_SIDE = GLYPHS.shape[-1]  # pixels
NOISE, LEVEL = 64, 128  # the background is 0 .. NOISE - 1; glyphs and blocks are LEVEL brighter

GAP = 22  # of far-pairs: fewest columns from the last one of the left glyph to the first one of the right
SHIFTS = {"horizontal": (0, 1), "vertical": (1, 0), "falling": (1, 1), "rising": (1, -1)}  # rows down, columns right
BLANK = 8  # of textures: one image in so many, in equal numbers per class, shows no texture
CORNER, MARGIN = 12, 1  # of far-context: largest distances of the block, and of the glyph, from their corners
SIDES = (5, 10)  # of the block, pixels: smallest and largest

Made = tuple[np.ndarray, np.ndarray]


def below(bits: np.random.PCG64, high: int | np.ndarray, *shape: int) -> np.ndarray:
    """Return integers 0 .. ``high`` - 1, int64, the same on every machine and with every version of numpy.

    They come from the raw bits of PCG64, whose stream numpy guarantees; its distributions may change. The remainder of
    64 bits favours no integer by more than ``high`` in 2**64. An array ``high`` has ``shape``.
    """
    raw = np.asarray(bits.random_raw(math.prod(shape))).reshape(shape)
    return (raw % np.asarray(high, np.uint64)).astype(np.int64)


def far_pairs(bits: np.random.PCG64, count: int, size: tuple[int, int]) -> Made:
    """Return ``count`` groups of four images: two glyphs far apart on noise; the classes are same and different.

    A network of local windows and pooling cannot solve this. Assume that no window of its last layer holds pixels of
    both glyphs, and that the network averages over the map and ends in a linear layer, as convnet3 does (its windows
    are 22 pixels wide; the nearest columns of the two glyphs are 22 apart, so both would need 23). In evaluation mode
    each logit is a sum over windows. For a given background and given positions it is the sum of a term of the left
    glyph and a term of the right one: score(a, b) = f(a) + g(b). So

        score(a, a) + score(b, b) = score(a, b) + score(b, a).

    The four images of a group share background and positions and show the pairs aa, bb, ab, ba. For any f and g, even
    if they depend on background, positions and border:

    - not all four are classified correctly, because two scores above a threshold cannot have the sum of two below it.
      Accuracy is at most 75 % on every such set, including the training set. (With more kinds of glyphs it is still
      75 %: order them at random, and f(a) + g(b) can tell a <= b from a > b.)
    - cross-entropy is at least ln 2 = 0.693, by Jensen's inequality, which a constant answer has: training finds
      nothing better than chance, 50 %.

    Each kind of glyph is equally frequent on each side in both classes, so only the comparison helps: counts are
    multiples of 12, the number of ordered pairs of different glyphs.
    """
    kinds = len(GLYPHS)
    first = np.arange(count) % kinds
    second = (first + 1 + np.arange(count) // kinds % (kinds - 1)) % kinds  # every pair, equally often
    tops = below(bits, size[0] - GLYPH_SIDE + 1, 2, count)
    spare = size[1] - 2 * GLYPH_SIDE - GAP + 1
    left, right = np.sort(below(bits, spare + 1, 2, count), axis=0)
    images = np.repeat(below(bits, NOISE, count, *size), 4, axis=0)  # (4 * Q, H, W)
    for shown, top, at in (
        ((first, second, first, second), tops[0], left),
        ((first, second, second, first), tops[1], right + GLYPH_SIDE + GAP - 1),
    ):
        _stamp(images, GLYPHS[np.stack(shown, axis=1).reshape(-1)], np.repeat(top, 4), np.repeat(at, 4))
    return images, np.tile((0, 0, 1, 1), count)


def textures(bits: np.random.PCG64, count: int, size: tuple[int, int]) -> Made:
    """Return ``count`` images whose class is the direction in which neighbouring pixels are similar.

    Windows of 2 x 2 pixels show all of it, so far context adds nothing. An image is the mean of noise and its own copy,
    moved by one pixel in the direction of the class. In one image in eight, other noise replaces the copy, and only
    chance can be right. The best expected accuracy is 7/8 + 1/8 * 1/4 = 90.6 %.
    """
    rows, columns = size
    numbers = np.arange(count)
    labels = numbers % len(SHIFTS)
    noise = below(bits, 256, count, rows + 1, columns + 2)
    moved = np.empty((count, rows, columns), np.int64)
    for label, (down, right) in enumerate(SHIFTS.values()):
        moved[labels == label] = noise[labels == label, down : down + rows, 1 + right : 1 + right + columns]
    blank = numbers // len(SHIFTS) % BLANK == 0
    moved[blank] = below(bits, 256, int(blank.sum()), rows, columns)
    return (noise[:, :rows, 1 : 1 + columns] + moved) // 2, labels


def far_context(bits: np.random.PCG64, count: int, size: tuple[int, int]) -> Made:
    """Return ``count`` pairs with a label per pixel: a block whose class a glyph in the opposite corner tells.

    A network of local windows cannot solve this. The block lies within 12 pixels of one corner in both directions, the
    glyph within 6 of the opposite one, so each pixel of the block is at least 15 rows and columns away from the glyph.
    A network with a shorter reach (the small U-Net without attention has 13 pixels) gives the block the same answer for
    both glyphs. The two images of a pair differ only in the glyph and the labels of the block. Let such a network
    assign a share p of all blocks' pixels to the first class and at most 1 - p to the second, in one half of the images
    and hence in the other. Then the intersections over unions are at most p / (1 + p) and (1 - p) / (2 - p), and their
    mean with a perfect background is at most (1 + 2/3) / 3 = 5/9 = 55.6 %.
    """
    ground = below(bits, NOISE, count, *size)
    least, most = SIDES
    sides = least + below(bits, most - least + 1, 2, count)  # rows, columns
    starts = below(bits, CORNER - sides + 1, 2, count)
    row, column = np.arange(size[0])[:, None], np.arange(size[1])
    (top, left), (rows, columns) = starts[..., None, None], sides[..., None, None]
    block = (row >= top) & (row < top + rows) & (column >= left) & (column < left + columns)  # (P, H, W), top left
    glyph_at = np.array(size)[:, None] - GLYPH_SIDE - below(bits, MARGIN + 1, 2, count)
    corner = below(bits, 4, count)
    for axis in (1, 2):  # mirrored, so that block and glyph are in any two opposite corners
        mirrored = (corner >> (axis - 1)) & 1 == 1
        block[mirrored] = np.flip(block[mirrored], axis)
        glyph_at[axis - 1, mirrored] = size[axis - 1] - GLYPH_SIDE - glyph_at[axis - 1, mirrored]
    images = np.repeat(ground + LEVEL * block, 2, axis=0)  # (2 * P, H, W)
    kinds = np.tile((0, 1), count)
    _stamp(images, GLYPHS[kinds], *np.repeat(glyph_at, 2, axis=1))
    return images, np.repeat(block, 2, axis=0) * (1 + kinds)[:, None, None]


def _stamp(images: np.ndarray, glyphs: np.ndarray, top: np.ndarray, left: np.ndarray) -> None:
    """Brighten ``images`` (N, H, W) in place, where ``glyphs`` (N, G, G) stand at ``top``, ``left`` (N,)."""
    row, column = np.arange(GLYPH_SIDE)[:, None], np.arange(GLYPH_SIDE)
    number = np.arange(len(images))[:, None, None]
    images[number, top[:, None, None] + row, left[:, None, None] + column] += LEVEL * glyphs


class GeneratedSet(NamedTuple):
    """A set of images (N, H, W), 0 .. 255, with labels (N,) or (N, H, W); pairs are of training and validation."""

    make: Callable[[np.random.PCG64, int, tuple[int, int]], Made]
    classes: tuple[str, ...]
    size: tuple[int, int]  # rows, columns
    counts: tuple[int, int]  # of images, pairs or fours
    seeds: tuple[int, int]


GENERATED_SETS = {
    "far-pairs": GeneratedSet(far_pairs, ("same", "different"), (16, 32), (528, 144), (1, 2)),
    "textures": GeneratedSet(textures, tuple(SHIFTS), (16, 32), (2048, 512), (3, 4)),
    "far-context": GeneratedSet(
        far_context, ("ground", "block-of-plus", "block-of-cross"), (32, 32), (512, 128), (5, 6)
    ),
}


def load_generated(name: str, *, image_size: tuple[int, int] | None) -> ImageData:
    """Return the set ``name`` of ``GENERATED_SETS``; it takes a moment and writes nothing.

    Raises:
        InputError: ``image_size`` is not the set's own, for which its distances are made.
    """
    make, classes, size, counts, seeds = GENERATED_SETS[name]
    if image_size is not None and image_size != size:
        given = " x ".join(map(str, dict.fromkeys(image_size)))
        raise checks.InputError(
            f"data set {name!r} is made at {size[0]} x {size[1]} pixels: leave image_size out, got {given}"
        )
    train, val = (make(np.random.PCG64(seed), count, size) for seed, count in zip(seeds, counts, strict=True))
    return data_of_tensors(name, classes, _source(*train), _source(*val))


def _source(images: np.ndarray, labels: np.ndarray) -> TensorSource:
    return TensorSource(
        torch.from_numpy(images.astype(np.uint8)).unsqueeze(1), torch.from_numpy(labels.astype(np.int64))
    )
