"""A study as a YAML file: what a person writes, what a study's folder keeps, and the built-in ones.

The arms are written out, or a grid gives them, or both are repeated in blocks::

    name: mine
    text: Does attention help on digits?
    recipe: NAME              # of `attnconv train --list-recipes`; base and arms go over it
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
from attnconv.study.plan import Study, merged, named
from attnconv.train.config import RunConfig, read_yaml

FIELDS = (*(f.name for f in dataclasses.fields(Study)), "recipe", "grid", "blocks")
REQUIRED = ("name", "text", "baseline")
PLANS = Path(__file__).with_name("plans")

Scale = Literal["published", "small"]  # of a built-in study

# Options of a grid that make a comparison of its own, with its own baseline, and how they are written in its name.
BLOCK_OPTIONS = {"data": "{}", "image_size": "{}px", "train_subset": "{}img", "epochs": "{}ep"}
STEPS = {"add": ("after", "simple"), "augment": ("where", "augmented")}  # of surgery: the argument of places, the kind


def read_study(path: Path) -> Study:
    """The study in a YAML file; InputError if it cannot be read, or as `Study`."""
    return study_of(read_yaml(path), source=str(path))


def study_of(values: Any, *, source: str) -> Study:
    """The study that ``values`` of ``source`` describe."""
    if not isinstance(values, dict):
        raise checks.InputTypeError(f"{source} must hold names and values, got {type(values).__name__}")
    for name in values:
        checks.one_of(f"entry of a study in {source}", name, FIELDS)
    for name in REQUIRED:
        if name not in values:
            raise checks.InputError(f"{source} must say its {name}")
    if ("arms" in values) == ("grid" in values):
        raise checks.InputError(f"{source} must have either arms or a grid")
    values = dict(values)
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
        return Study(**values)
    except checks.InputError as error:
        raise type(error)(f"{source}: {error}") from None


def under_recipe(name: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a recipe but its seed, with ``options`` over them; InputError if there is no such recipe."""
    from attnconv.recipes import find_recipe

    found = find_recipe(name).under(options)
    return {option: value for option, value in found.items() if option != "seed" or option in options}


def arms_in_blocks(blocks: Any, arms: Any) -> dict[str, dict[str, Any]]:
    """Every arm in every block, BLOCK/ARM; the arm's options go over the block's."""
    blocks, arms = named("blocks", blocks), named("arms", arms)
    if not blocks:
        raise checks.InputError("blocks must name at least one, got none")
    return {
        f"{block}/{arm}": merged(named(f"block {block!r}", shared), named(f"arm {arm!r}", options))
        for block, shared in blocks.items()
        for arm, options in arms.items()
    }


def arms_of_grid(grid: Any) -> dict[str, dict[str, Any]]:
    """Every combination of a grid's values: option -> list of them; ``model_options.NAME`` is one of the network's.

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
        name = _arm_name(dict(zip(grid, combination, strict=True)))
        if name in arms:
            raise checks.InputError(f"two combinations of the grid have the name {name!r}: write them out as arms")
        arms[name] = options
    return arms


def _arm_name(values: dict[str, Any]) -> str:
    """digits-3ep/convnet3,lr=0.1: data, size and length make the block, everything else the arm."""
    if isinstance(size := values.get("image_size"), list):
        values = {**values, "image_size": "x".join(map(str, size))}
    inside = [option for option in values if option not in BLOCK_OPTIONS]
    block = [
        form.format(_word(Path(str(values[option])).name))
        for option, form in BLOCK_OPTIONS.items()
        if option in values and inside
    ]
    arm = [
        _word(values[option])
        if option == "model"
        else f"{option.removeprefix('model_options.')}={_word(values[option])}"
        for option in inside or values
    ]
    return "/".join(part for part in ("-".join(block), ",".join(arm)) if part)


def _word(value: Any) -> str:
    """A value as part of a name, in the letters that one may have."""
    if isinstance(value, list):
        return "+".join(map(_word, value)) or "none"
    if isinstance(value, dict):
        return "-".join(_step_word(name, arguments) for name, arguments in value.items())
    return "none" if value is None else re.sub(r"[^A-Za-z0-9._+=,-]", "-", str(value))


def _step_word(name: str, arguments: Any) -> str:
    """layer3=simple of a step {add: {after: layer3}}; what else it says follows, as in layer3=sagan-width=8."""
    if name not in STEPS or not isinstance(arguments, dict):
        return f"{name}={_word(arguments)}"
    place, kind = STEPS[name]
    others = [f"{key}={_word(value)}" for key, value in arguments.items() if key not in (place, "kind")]
    return "-".join([f"{_word(arguments.get(place))}={_word(arguments.get('kind', kind))}", *others])


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

    It is the file plans/NAME.yaml in its published size, for a GPU, and plans/NAME-small.yaml in a small one, meant for
    an hour of two CPU cores, if the two differ. In the published size it has the seeds with which its largest table can
    reach 5 % after Holm. The small ones ask the same question with small networks, small images and few epochs, and
    most with five seeds, for the hour's sake: nothing published belongs to them.
    """
    checks.one_of("scale", scale, get_args(Scale))
    checks.one_of("study", name, BUILT_IN)
    small = PLANS / f"{name}-small.yaml"
    path = small if scale == "small" and small.exists() else PLANS / f"{name}.yaml"
    return dataclasses.replace(read_study(path), scale=scale)
