"""Stages of a residual network: which of them an option names, and the size of their maps."""

from typing import Any

from attnconv import checks


def chosen(what: str, value: Any, known: tuple[int, ...]) -> tuple[int, ...]:
    """``value``, a list of some of the stages ``known``, as a tuple."""
    if not isinstance(value, (tuple, list)) or any(stage not in known for stage in value):
        names = f"{', '.join(map(str, known[:-1]))} and {known[-1]}"
        raise checks.InputError(f"{what} must be a list of stages among {names}, got {value!r}")
    return tuple(value)


def halved(map_size: tuple[int, int]) -> tuple[int, int]:
    """What a padded 3x3 window of stride 2 leaves of a map: half of it, rounded up."""
    rows, columns = map_size
    return -(-rows // 2), -(-columns // 2)
