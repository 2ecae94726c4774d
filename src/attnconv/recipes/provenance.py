"""The origin of a network: the command that trained it, its recipe, its scores.

Nothing of it names a folder of whoever trained it.
"""

import contextlib
import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

from attnconv import checks, files
from attnconv.recipes.catalog import find_recipe, list_recipes
from attnconv.train.config import YOUR_FOLDER, RunConfig, without_folders
from attnconv.train.run_folder import MAY_DIFFER

# Beside them, what a recipe leaves to whoever runs it.
FREE = {*MAY_DIFFER, "data_dir", "cache_images", "model", "model_options", "seed"}
SCORES = ("top1", "top5", "loss", "miou")  # with "val_" before them in a run's history
MADE_WITH = ("attnconv", "torch", "device", "commit")  # of result.json


def provenance_of(config: RunConfig, state: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    """Return config, command, recipe (or None), scores (or None) and made_with of a checkpoint, as plain values.

    Args:
        config: of the run.
        state: what is in the checkpoint.
        checkpoint: its file; the run's result.json is beside it, once it is finished.
    """
    config = shareable(config)
    row = state["history"][-1] if state["history"] and not state["step_in_epoch"] else None
    result: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, TypeError):
        result = dict(checks.from_json(files.read_text(checkpoint.parent / "result.json")))
    return {
        "config": config.to_dict(),
        "command": command(config),
        "recipe": recipe_of(config),
        "scores": row and {"epoch": row["epoch"], **{f"val_{s}": row[f"val_{s}"] for s in SCORES if f"val_{s}" in row}},
        "made_with": {name: result[name] for name in MADE_WITH if result.get(name)},
    }


def scores_of(provenance: dict[str, Any] | None) -> dict[str, Any]:
    """Return what a network says of itself beside its options: epoch, top1, top5, loss, miou, and made_with.

    Of one of another program, where it was ``imported`` from.
    """
    provenance = provenance or {}
    scores, made_with = (provenance.get(key) or {} for key in ("scores", "made_with"))
    imported = {"imported": provenance["imported"]} if "imported" in provenance else {}
    return {**{name.removeprefix("val_"): value for name, value in scores.items()}, **made_with, **imported}


def shareable(config: RunConfig) -> RunConfig:
    """``config`` without this machine's folders: FOLDER for one of images."""
    return RunConfig(**without_folders(config.to_dict()))


def recipe_of(config: RunConfig) -> str | None:
    """The recipe that ``config`` is a run of, with whatever network and seed; None if there is none."""
    for recipe in list_recipes():
        fixed = {f.name for f in dataclasses.fields(RunConfig)} - FREE
        if all(getattr(recipe.config, name) == getattr(config, name) for name in fixed):
            return recipe.name
    return None


def command(config: RunConfig) -> str:
    """`attnconv train` with the options that make ``config`` again, over its recipe if it has one."""
    words, base = [], RunConfig()
    if (name := recipe_of(config)) is not None:
        recipe = find_recipe(name)
        words += ["--recipe", name]
        base = RunConfig(**recipe.under({"model": config.model, "data": config.data}))
        base = dataclasses.replace(base, model=recipe.config.model)
        words += ["--data", config.data] if recipe.needs_data else []
    for field in dataclasses.fields(RunConfig):
        value, default = getattr(config, field.name), getattr(base, field.name)
        flag = f"--{field.name.replace('_', '-')}"
        if field.name == "model_options":
            for option in value.keys() | default.keys():
                if option in value and (option not in default or default[option] != value[option]):
                    words += ["--option", f"{option}={json.dumps(value[option])}"]
        elif field.name in ("model", "data") and name is None:
            words += [flag, value]  # said even where they are the defaults
        elif value == default or value is None:
            continue
        elif isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            words += [flag, str(value)]
    return shlex.join(["attnconv", "train", *words])


def config_of(
    provenance: dict[str, Any] | None, model: str | None, options: dict[str, Any], *, source: str
) -> RunConfig:
    """The configuration of the run of a saved network, or one that only names the network if it has none.

    Raises:
        InputError: what it holds is no configuration.
    """
    if provenance is None:
        named = {} if model is None else {"model": model, "model_options": options}
        return RunConfig.from_dict({"data": YOUR_FOLDER, **named}, source=source)
    if not isinstance(provenance.get("config"), dict):
        raise checks.InputError(f"{source}: 'provenance' must hold the options of a run under 'config'")
    # A file that names no data is of no data set, not of RunConfig's default one.
    return RunConfig.from_dict({"data": YOUR_FOLDER, **provenance["config"]}, source=source)
