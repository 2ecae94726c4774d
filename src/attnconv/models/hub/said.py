"""Meta and provenance of a saved network, of the kinds that its readers and its card expect."""

from typing import Any

from attnconv import checks

KINDS = {"config": dict, "command": str, "recipe": str, "scores": dict, "made_with": dict, "imported": dict}


def require_provenance(provenance: Any, *, source: str) -> None:
    """Pass if each part of ``provenance`` that is there is of its kind, and scores are numbers.

    Raises:
        InputError: one is not; the message names ``source``.
    """
    if provenance is None:
        return
    _require(provenance, dict, "'provenance'", source)
    for name, kind in KINDS.items():
        if provenance.get(name) is not None:
            _require(provenance[name], kind, f"{name!r} of 'provenance'", source)
    for name, value in (provenance.get("scores") or {}).items():
        if str(name).startswith("val_") and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise checks.InputError(f"{source}: the score {name!r} must be a number, got {value!r}")


def require_classes(meta: Any, outputs: int, *, source: str) -> None:
    """Pass if ``meta`` names as many classes as there are ``outputs``, or none.

    Raises:
        InputError: it does not; the message names ``source``.
    """
    if meta is None:
        return
    _require(meta, dict, "'meta'", source)
    if (names := meta.get("classes")) is None:
        return
    _require(names, list, "'classes' of 'meta'", source)
    if len(names) != outputs:
        raise checks.InputError(f"{source}: 'meta' has {len(names)} names of classes, and its network is of {outputs}")


def without_foreign_classes(meta: Any, outputs: int) -> Any:
    """Return ``meta``, without its classes if they are not those of a network that has exchanged its classifier."""
    names = meta.get("classes") if isinstance(meta, dict) else None
    if names is None or (isinstance(names, (list, tuple)) and len(names) == outputs):
        return meta
    return {**meta, "classes": None}


def _require(value: Any, kind: type, what: str, source: str) -> None:
    if not isinstance(value, kind):
        raise checks.InputError(f"{source}: {what} must be {kind.__name__}, got {type(value).__name__}")
