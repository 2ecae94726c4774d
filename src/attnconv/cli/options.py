"""Flags: the options of a run, NAME=VALUE pairs, and lists of words and integers."""

import dataclasses
import typing
from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

from cyclopts import Parameter, Token

from attnconv import checks
from attnconv.train.config import RunConfig, image_size_of, yaml_value


def _image_size(_: Any, tokens: Sequence[Token]) -> int | tuple[int, int] | None:
    text = tokens[0].value
    if text.casefold() in ("none", "null"):
        return None
    return image_size_of(int(text) if text.lstrip("+-").isdecimal() else text)


# A flag's type: 128, or 128x192, rows x columns.
ImageSize = Annotated[int | tuple[int, int] | None, Parameter(converter=_image_size, n_tokens=1)]


def run_options() -> Any:
    """Return a TypedDict of every field of RunConfig, none required: what was not typed stays absent."""
    hints = typing.get_type_hints(RunConfig)
    flags: dict[str, Any] = {}
    for field in dataclasses.fields(RunConfig):
        if field.name == "model_options":  # written in another way: as NAME=VALUE pairs
            continue
        default = "" if field.default is None or field.default is False else f" [default: {field.default}]"
        # With --no-NAME, for what a recipe or a file has set.
        hint = ImageSize if field.name == "image_size" else hints[field.name]
        flags[field.name] = Annotated[hint, Parameter(help=field.metadata["help"] + default, negative=None)]
    return TypedDict("RunOptions", flags, total=False)  # pyright: ignore[reportArgumentType]


def pairs(texts: list[str] | None) -> dict[str, Any]:
    """Return NAME=VALUE texts as a dict; values are YAML, so 3, 0.5, true and [1, 2] are what they look like."""
    import yaml

    found: dict[str, Any] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise checks.InputError(f"--option must be NAME=VALUE, got {text!r}")
        try:
            found[name.replace("-", "_")] = yaml_value(value)
        except yaml.YAMLError:
            raise checks.InputError(f"--option {name}: {value!r} is no YAML value") from None
    return found


def words(text: str) -> list[str]:
    """Return what stands between commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def integers(flag: str, text: str) -> list[int]:
    """Return the integers between commas; InputError, naming ``flag``, if one is none."""
    try:
        return [int(word) for word in words(text)]
    except ValueError:
        raise checks.InputError(f"--{flag} must be integers such as 8,16,32, got {text!r}") from None
