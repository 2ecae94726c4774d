"""What several commands read alike: the options of a run and NAME=VALUE pairs."""

import dataclasses
import typing
from typing import Annotated, Any, TypedDict

from cyclopts import Parameter

from attnconv import checks
from attnconv.train.config import RunConfig, number_in_text

# Written in another way on the command line: as NAME=VALUE pairs.
ELSEWHERE = {"model_options"}


def run_options() -> Any:
    """A TypedDict of every field of RunConfig, none required: what was not typed stays absent."""
    hints = typing.get_type_hints(RunConfig)
    fields = {
        f.name: Annotated[hints[f.name], Parameter(help=_help(f))]  # and --no-NAME, for what a recipe or a file has set
        for f in dataclasses.fields(RunConfig)
        if f.name not in ELSEWHERE
    }
    return TypedDict("RunOptions", fields, total=False)  # pyright: ignore[reportArgumentType]


def _help(field: dataclasses.Field) -> str:
    default = "" if field.default is None or field.default is False else f" [default: {field.default}]"
    return field.metadata["help"] + default


def pairs(texts: list[str] | None) -> dict[str, Any]:
    """NAME=VALUE texts as a dict; values are YAML, so 3, 0.5, true and [1, 2] are what they look like."""
    import yaml

    found: dict[str, Any] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise checks.InputError(f"--option must be NAME=VALUE, got {text!r}")
        try:
            found[name.replace("-", "_")] = number_in_text(yaml.safe_load(value))
        except yaml.YAMLError:
            raise checks.InputError(f"--option {name}: {value!r} is no YAML value") from None
    return found
