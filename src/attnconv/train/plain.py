"""Plain values: what YAML, JSON and a checkpoint can all hold, and give back equal."""

from typing import Any

from attnconv import checks


def plain(name: str, value: Any) -> Any:
    """A copy of ``value`` with tuples as lists, as it would come back from a file.

    Raises:
        InputTypeError: it holds something else than None, a bool, a number, text, lists, or dicts named by text.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(f"{name}[{i}]", item) for i, item in enumerate(value)]
    if isinstance(value, dict) and all(type(key) is str for key in value):
        return {key: plain(f"{name}[{key!r}]", item) for key, item in value.items()}
    raise checks.InputTypeError(
        f"{name} must hold plain values (text, numbers, lists, dicts named by text), got {value!r}"
    )
