"""far-pairs, generated: two glyphs far apart on a noisy ground; are they the same or different?

Why a network that looks at a window and pools cannot tell. Let no window that its last layer sees hold pixels of both
glyphs, and let the network average what it sees over the map and end in a linear layer, as convnet3 does (its windows
are 22 pixels wide; the nearest columns of the two glyphs are 22 apart, so both would need 23). In evaluation mode each
logit is then a sum over windows, hence, on a given ground with given places, a sum of a term of the left glyph and a
term of the right one: score(a, b) = f(a) + g(b). So

    score(a, a) + score(b, b) = score(a, b) + score(b, a).

The images come in fours which share ground and places and show the pairs aa, bb, ab, ba. Whatever f and g are, also
where they depend on the ground, the places and the border of the image:

- not all four are classified rightly, for two scores above a threshold cannot add up to what two below it do: accuracy
  is at most 75 % on every such set, also on the one trained on. (With more kinds of glyphs it is still 75 %: order
  them at random, and f(a) + g(b) can tell a <= b from a > b.)
- cross-entropy is at least ln 2 = 0.693, by Jensen's inequality, which is what a constant answer has: training finds
  nothing better than chance, 50 %.

Each kind of glyph is equally often on each side of both classes, so that nothing but the comparison helps.

Letters: Q fours of images, H rows, W columns.
"""

import numpy as np

from attnconv.data.glyphs import GLYPH_SIDE, GLYPHS, stamp
from attnconv.data.random_bits import RandomBits

CLASSES = ("same", "different")
SIZE = (16, 32)  # pixels
GAP = 22  # columns from the last one of the left glyph to the first one of the right, at least
NOISE, LEVEL = 64, 128  # the ground is 0 .. NOISE - 1; glyphs are LEVEL brighter
COUNTS = {"train": 528, "val": 144}  # fours; multiples of 12, the ordered pairs of unlike glyphs
SEEDS = {"train": 1, "val": 2}


def far_pairs(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (4 * Q, H, W), 0 .. 255, and labels (4 * Q,) of the ``part``, "train" or "val"."""
    bits, count = RandomBits(SEEDS[part]), COUNTS[part]
    first = np.arange(count) % len(GLYPHS)
    second = (first + 1 + np.arange(count) // len(GLYPHS) % (len(GLYPHS) - 1)) % len(
        GLYPHS
    )  # every pair, equally often
    tops = bits.below(SIZE[0] - GLYPH_SIDE + 1, 2, count)
    spare = SIZE[1] - 2 * GLYPH_SIDE - GAP + 1
    left, right = np.sort(bits.below(spare + 1, 2, count), axis=0)
    ground = bits.below(NOISE, count, *SIZE)
    return images_of(ground, (first, second), tops, (left, right + GLYPH_SIDE + GAP - 1)), np.tile((0, 0, 1, 1), count)


def images_of(
    ground: np.ndarray,
    kinds: tuple[np.ndarray, np.ndarray],
    tops: np.ndarray,
    lefts: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """Fours (4 * Q, H, W) of the pairs aa, bb, ab, ba on each ``ground`` (Q, H, W); the rest is (Q,) a glyph."""
    images = np.repeat(ground, 4, axis=0)
    for side, shown in enumerate(((0, 1, 0, 1), (0, 1, 1, 0))):  # which of the two kinds this side shows
        glyphs = GLYPHS[np.stack([kinds[which] for which in shown], axis=1).reshape(-1)]  # (4 * Q, G, G)
        stamp(images, glyphs, np.repeat(tops[side], 4), np.repeat(lefts[side], 4), LEVEL)
    return images
