"""What exporters and compilers log, held back where it is of no use to who reads."""

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def logging_only(level: int, name: str) -> Iterator[None]:
    """In which the logger ``name`` passes nothing below ``level``."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
