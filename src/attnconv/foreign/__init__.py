"""Files of weights that other programs wrote, read without running anything that is in them.

``torch.load(weights_only=True)`` runs no code either, but a file of a hundred bytes makes it take any amount of memory
(a call of ``bytearray``, the size of a storage), and it refuses what trainers save beside their weights. The unpickler
here reads the same files: it builds plain values, puts a stand-in for everything else, and calls nothing.
"""

from attnconv.foreign.read import WHOLE, Found, NotPlainError, Source, read_plain, read_state_dict

__all__ = ["WHOLE", "Found", "NotPlainError", "Source", "read_plain", "read_state_dict"]
