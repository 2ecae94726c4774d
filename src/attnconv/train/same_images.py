"""Whether a resumed run finds the images that it began with: their order in training depends on all of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnconv import checks


def changes_of_images(then: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> list[str]:
    """What is to be said about images that have changed since a checkpoint was saved.

    Args:
        then: the "images" of the checkpoint's meta: by kind (training, validation) a fingerprint of count, listing and
            bytes, as the room `data` makes them; empty if nothing is known.
        now: those of today.
        path: the checkpoint.
    Raises:
        InputError: there are more or fewer images, or others by name or class.
    """
    found = []
    for kind in (kind for kind in then if kind in now):
        old, new = then[kind], now[kind]
        if (old["count"], old["listing"]) != (new["count"], new["listing"]):
            difference = (
                f"{old['count']} {kind} images, and now there are {new['count']}"
                if old["count"] != new["count"]
                else f"{old['count']} {kind} images, of which some now have other names or classes"
            )
            raise checks.InputError(
                f"{path} was saved in a run on {difference}: bring back those it began with, or start a new run"
            )
        if old["bytes"] != new["bytes"]:
            found.append(
                f"files of {kind} images have changed since the last checkpoint ({old['bytes']:,} bytes then, "
                f"{new['bytes']:,} now): the run will not end in the very same bits"
            )
    return found
