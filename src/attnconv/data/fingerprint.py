"""What tells one list of images from another, in a few bytes that a checkpoint can hold."""

import hashlib
from collections.abc import Iterable
from typing import Any


def fingerprint(images: Iterable[tuple[str, int, int]]) -> dict[str, Any]:
    """Of a list of images, each (name, label, bytes).

    Returns:
        count: how many; listing: SHA-256 of their names and labels, in order, on which the order of training depends;
        bytes: of all of them together, which most changes of a file change.
    """
    digest, count, total = hashlib.sha256(), 0, 0
    for name, label, size in images:
        digest.update(f"{name}\0{label}\n".encode("utf-8", "surrogateescape"))
        count, total = count + 1, total + max(size, 0)
    return {"count": count, "listing": digest.hexdigest(), "bytes": total}
