"""Bounds of reading a file: the memory that its contents may take, and the bytes of a pickle in it."""

from typing import BinaryIO

from attnconv import checks

EXTRA = 60_000_000  # bytes that may be taken besides the size of the file; 40 MB remain for memory that is not counted
LINE = 1 << 16  # bytes of the longest line of text in a pickle
LONGEST = 1 << 16  # bytes of text, or others, that are read; longer ones, such as the numbers of arrays, are skipped


class Budget:
    """Bytes of memory that may still be taken for the contents of a file, its tensors' numbers excluded.

    Args:
        label: of the file, for the message.
        size: of the file, in bytes.
        longest: bytes of text, or others, that are read; longer ones are skipped.
    """

    def __init__(self, label: str, size: int, longest: int = LONGEST) -> None:
        self.label, self.longest, self._left = label, longest, size + EXTRA

    def take(self, size: int) -> None:
        """Take ``size`` bytes.

        Raises:
            InputError: fewer are left.
        """
        self._left -= size
        if self._left < 0:
            raise checks.InputError(f"{self.label} would take more memory than twice its size and 100 MB")


class Part:
    """The bytes from ``start`` to ``end`` of ``file``, which hold a pickle."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._file, self.at, self.end = file, start, end
        file.seek(start)

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes; EOFError, before memory is taken, if there are fewer."""
        self._require(size)
        self.at += size
        return self._file.read(size)

    def skip(self, size: int) -> None:
        """Go past ``size`` bytes; EOFError if there are fewer."""
        self._require(size)
        self.at += size
        self._file.seek(self.at)

    def readline(self) -> bytes:
        """Return the next line, its end included."""
        line = self._file.readline(min(LINE, self.end - self.at))
        if not line.endswith(b"\n"):
            raise EOFError("a line without an end")
        self.at += len(line)
        return line

    def _require(self, size: int) -> None:
        if not 0 <= size <= self.end - self.at:
            raise EOFError(f"{size} bytes are announced where {self.end - self.at} are left")
