"""Small black-and-white signs, and how they are put on images.

Letters: N images, H rows, W columns, G the side of a glyph.
"""

import numpy as np

_DRAWN = {
    "plus": ("  #  ", "  #  ", "#####", "  #  ", "  #  "),
    "cross": ("#   #", " # # ", "  #  ", " # # ", "#   #"),
    "ring": ("#####", "#   #", "#   #", "#   #", "#####"),
    "bars": ("#####", "     ", "#####", "     ", "#####"),
}
GLYPH_NAMES = tuple(_DRAWN)
GLYPHS = np.array([[[pixel == "#" for pixel in row] for row in rows] for rows in _DRAWN.values()])  # (4, G, G) bool
GLYPH_SIDE = GLYPHS.shape[-1]  # pixels


def stamp(images: np.ndarray, glyphs: np.ndarray, top: np.ndarray, left: np.ndarray, level: int) -> None:
    """Add ``level`` to ``images`` (N, H, W) in place, where ``glyphs`` (N, G, G) stand at ``top``, ``left`` (N,)."""
    row, column = np.arange(glyphs.shape[1])[:, None], np.arange(glyphs.shape[2])
    number = np.arange(len(images))[:, None, None]
    images[number, top[:, None, None] + row, left[:, None, None] + column] += level * glyphs
