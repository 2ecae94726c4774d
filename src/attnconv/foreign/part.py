"""A part of a file, past whose end nothing is read."""

from typing import BinaryIO

LINE = 1 << 16  # bytes of the longest line of text in a pickle


class Part:
    """The bytes from ``start`` to ``end`` of ``file``, from which a pickle is read."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._file, self.at, self.end = file, start, end
        file.seek(start)

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes, which must be there: nothing is taken for those that are not."""
        if not 0 <= size <= self.end - self.at:
            raise EOFError(f"{size} bytes are announced where {self.end - self.at} are left")
        self.at += size
        return self._file.read(size)

    def readline(self) -> bytes:
        """Return the next line, its end included."""
        line = self._file.readline(min(LINE, self.end - self.at))
        if not line.endswith(b"\n"):
            raise EOFError("a line without an end")
        self.at += len(line)
        return line
