"""far-context, generated, with a label a pixel: a block whose class is told by a glyph in the opposite corner.

Why a network that looks at a window cannot tell. The block lies within 12 pixels of one corner in both directions,
the glyph within 6 of the opposite one, so each pixel of the block is at least 15 rows and columns away from the glyph.
A network that sees no farther (the small U-Net without attention sees 13 pixels far) answers in the block whatever the
glyph is. The images come in twos which differ in nothing but the glyph and the labels of the block. Of the pixels of
all blocks let such a network call a share p the first class and at most 1 - p the second, in one half of the images and
hence in the other. Then the intersections over unions are at most p / (1 + p) and (1 - p) / (2 - p), and their mean
with a faultless ground is at most (1 + 2/3) / 3 = 5/9 = 55.6 %.

Letters: P pairs of images, H rows, W columns.
"""

import numpy as np

from attnconv.data.glyphs import GLYPH_SIDE, GLYPHS, stamp
from attnconv.data.random_bits import RandomBits

CLASSES = ("ground", "block-of-plus", "block-of-cross")
SIZE = (32, 32)  # pixels
CORNER, MARGIN = 12, 1  # how far from its corner the block, and how far from its own the glyph, may begin
SIDES = (5, 10)  # of the block, pixels: least and most
NOISE, LEVEL = 64, 128  # the ground is 0 .. NOISE - 1; block and glyph are LEVEL brighter
COUNTS = {"train": 512, "val": 128}  # pairs
SEEDS = {"train": 5, "val": 6}


def far_context(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (2 * P, H, W), 0 .. 255, and labels (2 * P, H, W) of the ``part``, "train" or "val"."""
    bits, count = RandomBits(SEEDS[part]), COUNTS[part]
    ground = bits.below(NOISE, count, *SIZE)
    least, most = SIDES
    sides = least + bits.below(most - least + 1, 2, count)  # rows, columns
    starts = bits.below(CORNER - sides + 1, 2, count)
    row, column = np.arange(SIZE[0])[:, None], np.arange(SIZE[1])
    (top, left), (rows, columns) = starts[..., None, None], sides[..., None, None]
    block = (row >= top) & (row < top + rows) & (column >= left) & (column < left + columns)  # (P, H, W), top left
    glyph_at = np.array(SIZE)[:, None] - GLYPH_SIDE - bits.below(MARGIN + 1, 2, count)
    corner = bits.below(4, count)
    for axis in (1, 2):  # mirrored, so that block and glyph lie in any two opposite corners
        mirrored = (corner >> (axis - 1)) & 1 == 1
        block[mirrored] = np.flip(block[mirrored], axis)
        glyph_at[axis - 1, mirrored] = SIZE[axis - 1] - GLYPH_SIDE - glyph_at[axis - 1, mirrored]
    images = np.repeat(ground + LEVEL * block, 2, axis=0)
    kinds = np.tile((0, 1), count)
    tops, lefts = np.repeat(glyph_at, 2, axis=1)
    stamp(images, GLYPHS[kinds], tops, lefts, LEVEL)
    return images, np.repeat(block, 2, axis=0) * (1 + kinds)[:, None, None]
