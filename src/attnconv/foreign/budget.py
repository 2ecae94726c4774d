"""The memory that reading a file may take, counted before it is taken."""

from attnconv import checks

EXTRA = 60_000_000  # bytes that may be taken besides the size of the file; some are left for what is not counted


class Budget:
    """Bytes that may still be taken for what a file holds besides the numbers of its tensors.

    Args:
        label: of the file, for the message.
        size: of the file, in bytes.
    """

    def __init__(self, label: str, size: int) -> None:
        self.label, self._left = label, size + EXTRA

    def take(self, size: int) -> None:
        """Count ``size`` bytes.

        Raises:
            InputError: there are no more.
        """
        self._left -= size
        if self._left < 0:
            raise checks.InputError(f"{self.label} would take more memory than twice its size and 100 MB")
