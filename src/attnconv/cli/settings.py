"""The configuration of a run, from a recipe, a file of --config and the command line, each over the one before."""

from pathlib import Path
from typing import Any

from attnconv import checks, files
from attnconv.cli.options import pairs
from attnconv.train.config import RunConfig


def run_settings(
    *, recipe: str | None, config: Path | None, option: list[str] | None, options: dict[str, Any]
) -> RunConfig:
    """What the options of a command ask for; InputError as RunConfig, `read_yaml` and `Recipe.under`."""
    values: dict[str, Any] = {}
    if config is not None:
        values = read_yaml(config, missing=f"no file at {config}")
        RunConfig.from_dict(values, source=str(config))  # so that a fault of the file is not blamed on the command line
    return settings_over(values, recipe=recipe, option=option, options=options)


def settings_over(
    values: dict[str, Any], *, recipe: str | None = None, option: list[str] | None, options: dict[str, Any]
) -> RunConfig:
    """The command line's ``options`` and NAME=VALUE pairs over ``values``, and these over the recipe's."""
    values = {**values, **options}
    if option:
        values["model_options"] = {**values.get("model_options", {}), **pairs(option)}
    if recipe is not None:
        from attnconv.recipes import find_recipe

        values = find_recipe(recipe).under(values)
    return RunConfig.from_dict(values, source="the command line")


def read_yaml(path: Path, *, missing: str) -> dict[str, Any]:
    """The names and values in a YAML file; tags that would make Python objects are refused."""
    import yaml

    try:
        values = yaml.safe_load(files.read_text(path))
    except FileNotFoundError:
        raise checks.InputError(missing) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise checks.InputError(f"cannot read {path}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise checks.InputError(f"{path} must hold names and values, got {type(values).__name__}")
    return values
