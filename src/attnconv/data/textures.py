"""textures, generated: in which direction do neighbouring pixels resemble each other?

All that is to be seen fits into 2 x 2 pixels, everywhere alike, so that far context adds nothing. An image is the mean
of noise and its own copy, moved by one pixel in the direction of the class. In one of eight
other noise takes the place of the copy: nothing is to be seen there, and nobody is right but by chance. So the best
that can be expected is 7/8 + 1/8 * 1/4 = 90.6 %.

Letters: N images, H rows, W columns.
"""

import numpy as np

from attnconv.data.random_bits import RandomBits

SHIFTS = {"horizontal": (0, 1), "vertical": (1, 0), "falling": (1, 1), "rising": (1, -1)}  # rows down, columns right
CLASSES = tuple(SHIFTS)
SIZE = (16, 32)  # pixels
COUNTS = {"train": 2048, "val": 512}
SEEDS = {"train": 3, "val": 4}
BLANK = 8  # one of so many, equally many of each class, shows nothing


def textures(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, H, W), 0 .. 255, and labels (N,) of the ``part``, "train" or "val"; classes are equally frequent."""
    bits, (rows, columns), count = RandomBits(SEEDS[part]), SIZE, COUNTS[part]
    numbers = np.arange(count)
    labels = numbers % len(CLASSES)
    noise = bits.below(256, count, rows + 1, columns + 2)
    moved = np.empty((count, rows, columns), np.int64)
    for label, (down, right) in enumerate(SHIFTS.values()):
        moved[labels == label] = noise[labels == label, down : down + rows, 1 + right : 1 + right + columns]
    blank = numbers // len(CLASSES) % BLANK == 0
    moved[blank] = bits.below(256, int(blank.sum()), rows, columns)
    return (noise[:, :rows, 1 : 1 + columns] + moved) // 2, labels
