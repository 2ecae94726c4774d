"""A study as a YAML file: one's own plan, the plan in a study's folder, and the built-in plans.

The arms are listed, or made from a grid, and optionally repeated in blocks::

    name: mine
    text: Does attention help on digits?
    recipe: NAME              # of `attnconv train --list-recipes`; base and arms override it
    base: {data: digits, epochs: 3}
    arms: {plain: {model: convnet3}, augmented: {model: aa_convnet3}}
    blocks: {small: {train_subset: 200}, whole: {}}
    baseline: plain
    seeds: 5

    grid:                     # instead of arms
      model: [convnet3, aa_convnet3]
      epochs: [3, 6]
      model_options.position: [sine, relative]
"""

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any, Literal, get_args

from attnconv import checks
from attnconv.extensions import is_factory
from attnconv.study.plan import PlanError, Study, merged, named, noted, unknown_names
from attnconv.train.config import RunConfig, read_yaml

FIELDS = (*(f.name for f in dataclasses.fields(Study)), "recipe", "grid", "blocks")
REQUIRED = ("name", "text", "baseline")
PLANS = Path(__file__).with_name("plans")

Scale = Literal["published", "small"]  # of a built-in study


def read_study(path: Path | str) -> Study:
    """Return the study in a YAML file; InputError if it cannot be read, or as `study_of`."""
    return study_of(read_yaml(Path(path)), source=str(path))


def study_of(values: Any, *, source: str) -> Study:
    """Return the study that ``values`` of ``source`` describe.

    Raises:
        InputError: with every mistake that was found, models and data that do not exist among them.
    """
    if not isinstance(values, dict):
        raise checks.InputTypeError(f"{source} must hold names and values, got {type(values).__name__}")
    if ("arms" in values) == ("grid" in values):
        raise checks.InputError(f"{source} must have either arms or a grid")
    mistakes = [f"{name} is missing" for name in REQUIRED if name not in values]
    for name in values:
        with noted(mistakes):
            checks.one_of("entry of a study", name, FIELDS)
    values = {
        "name": "unnamed",
        "text": "",
        "baseline": None,
        **{name: values[name] for name in FIELDS if name in values},
    }
    configs: dict[str, RunConfig] = {}
    try:
        if "grid" in values:
            values["arms"] = arms_of_grid(values.pop("grid"))
        if (blocks := values.pop("blocks", None)) is not None:
            values["arms"] = arms_in_blocks(blocks, values["arms"])
        if (recipe := values.pop("recipe", None)) is not None:
            base = named("base", values.get("base"))
            values["base"] = {}
            values["arms"] = {
                arm: under_recipe(recipe, merged(base, named(f"arm {arm!r}", options)))
                for arm, options in named("arms", values["arms"]).items()
            }
        if values["baseline"] is None:  # already a mistake
            values["baseline"] = next(iter(named("arms", values["arms"])), "").rpartition("/")[2]
        study = Study(**values)
        if not mistakes:
            return study
    except PlanError as error:
        mistakes += error.mistakes
        configs = error.configs
    except checks.InputError as error:
        mistakes.append(str(error))
    mistakes += unknown_names({arm: config for arm, config in configs.items() if not is_factory(config.model)})
    raise checks.InputError(f"{source}: {PlanError(mistakes)}")


def under_recipe(name: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a recipe without its seed, overridden by ``options``; InputError if it does not exist."""
    from attnconv.recipes import find_recipe

    found = find_recipe(name).under(options)
    return {option: value for option, value in found.items() if option != "seed" or option in options}


def arms_in_blocks(blocks: Any, arms: Any) -> dict[str, dict[str, Any]]:
    """Return every arm in every block, BLOCK/ARM; the arm's options override the block's."""
    blocks, arms = named("blocks", blocks), named("arms", arms)
    if not blocks:
        raise checks.InputError("blocks must name at least one, got none")
    return {
        f"{block}/{arm}": merged(named(f"block {block!r}", shared), named(f"arm {arm!r}", options))
        for block, shared in blocks.items()
        for arm, options in arms.items()
    }


def arms_of_grid(grid: Any) -> dict[str, dict[str, Any]]:
    """Return an arm for every combination of a grid's values; ``model_options.NAME`` is an option of the network.

    Raises:
        InputError: no options, an option without values, or with one of them twice.
    """
    grid = named("grid", grid)
    if not grid:
        raise checks.InputError("the grid is empty: it must name at least one option and its values")
    known = [f.name for f in dataclasses.fields(RunConfig) if f.name not in ("seed", "model_options")]
    for option, values in grid.items():
        if not str(option).startswith("model_options."):
            checks.one_of("option in the grid", option, known)
        if not isinstance(values, list):
            raise checks.InputTypeError(f"grid: {option} must be a list of values, got {values!r}")
        if not values:
            raise checks.InputError(f"the grid is empty: {option} has no values")
        if twice := [value for i, value in enumerate(values) if value in values[:i]]:
            raise checks.InputError(f"grid: {option} has {twice[0]!r} twice")
    arms = {}
    for combination in itertools.product(*grid.values()):
        options: dict[str, Any] = {}
        for option, value in zip(grid, combination, strict=True):
            own = option.removeprefix("model_options.")
            options = merged(options, {option: value} if own == option else {"model_options": {own: value}})
        words = dict(zip(grid, map(_word, combination), strict=True))
        model = [words.pop("model")] if "model" in words else []
        name = ",".join(model + [f"{option.removeprefix('model_options.')}={word}" for option, word in words.items()])
        if name in arms:
            raise checks.InputError(f"two combinations of the grid have the name {name!r}: write them out as arms")
        arms[name] = options
    return arms


def _word(value: Any) -> str:
    """Return a value as part of a name, in the letters that one may have: 8x12, add-after-layer3."""
    if isinstance(value, list) and value and all(isinstance(one, int) for one in value):
        return "x".join(map(str, value))
    return re.sub(r"[^A-Za-z0-9._+=]+", "-", "none" if value in (None, []) else str(value)).strip("-")


BUILT_IN = (
    "simple-self-attention",
    "aa-cifar100",
    "position-encodings",
    "attention-fraction",
    "sa-placement",
    "attention-kinds",
    "why-attention",
)


def built_in(name: str, scale: Scale = "published") -> Study:
    """Return a built-in study; InputError, with the nearest name, if there is none.

    The published size, for a GPU, is plans/NAME.yaml, with enough seeds to reach 5 % after Holm. The small size, for
    about an hour of two CPU cores, is plans/NAME-small.yaml if the two differ: small networks and images, few epochs,
    mostly five seeds, and no published numbers.
    """
    checks.one_of("scale", scale, get_args(Scale))
    checks.one_of("study", name, BUILT_IN)
    small = PLANS / f"{name}-small.yaml"
    path = small if scale == "small" and small.exists() else PLANS / f"{name}.yaml"
    return dataclasses.replace(read_study(path), scale=scale)
