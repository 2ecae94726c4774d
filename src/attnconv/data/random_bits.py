"""Random integers for generated images, the same on every machine and under every version of numpy.

From the raw bits of PCG64, whose stream numpy promises to keep; its distributions may change between versions.
"""

import math

import numpy as np


class RandomBits:
    """A stream of integers that follows from ``seed``."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def below(self, high: int | np.ndarray, *shape: int) -> np.ndarray:
        """Integers 0 .. ``high`` - 1, int64; ``high``, if an array, of ``shape``.

        Taking the rest of 64 bits favours none of them by more than ``high`` in 2**64.
        """
        raw = np.asarray(self._bits.random_raw(math.prod(shape))).reshape(shape)
        return (raw % np.asarray(high, np.uint64)).astype(np.int64)
