"""Files that are either the old one or the new one, whole, whenever the machine stops."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from attnconv import checks


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` once the block ends well, and vanishes if it does not.

    Raises:
        InputError: the folder cannot be written or the disk is full; ``path`` is as it was.
    """
    # In the same folder, because only there is the replacement one step. The name is fixed, so that what a killed
    # process left behind is overwritten by the next one.
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise checks.InputError(f"cannot write {path}: {error.strerror or error}") from error
        raise
