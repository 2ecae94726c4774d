"""Recipes: named configurations with their sources, published results and measured results, read from catalog.yaml."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from attnconv import checks, networks
from attnconv.train.config import YOUR_FOLDER, RunConfig, read_yaml


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A named run.

    Args:
        name: for --recipe.
        title: one sentence.
        command: the command line, for the hardware that it needs.
        config: all options.
        source: of its settings.
        expected: the published result, in percent top-1 unless it says otherwise, or that there is none.
        measured: the result here, or None.
    """

    name: str
    title: str
    command: str
    config: RunConfig
    source: str
    expected: str
    measured: str | None = None

    @property
    def needs_data(self) -> bool:
        """True if --data must name a folder of images."""
        return self.config.data == YOUR_FOLDER

    def under(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the recipe's options, overridden by ``values`` of a file or the command line.

        A recipe fixes everything but the network. With another network, it keeps the options that both networks have.

        Raises:
            InputError: an unknown network, or no data where the recipe needs some.
        """
        if self.needs_data and "data" not in values:
            raise checks.InputError(
                f"recipe {self.name!r} needs --data FOLDER, a folder with train/<class>/* and val/<class>/*"
            )
        mine = {f.name: getattr(self.config, f.name) for f in fields(RunConfig)}
        if "base_momentum" in values or "max_momentum" in values:
            del mine["momentum"]  # which is cycled now
        known = _options_of(values.get("model", self.config.model))
        options = {name: value for name, value in self.config.model_options.items() if name in known}
        return {**mine, **values, "model_options": {**options, **values.get("model_options", {})}}


def _options_of(model: str) -> Mapping[str, Any]:
    """Return the options of a network; those of ours without loading torch."""
    if (found := networks.find(model)) is not None:
        return found[0].options
    from attnconv.models.registry import find

    return find(model).options


@functools.cache
def _entries() -> dict[str, dict[str, Any]]:
    """Return the entries of catalog.yaml by name, in their order."""
    return read_yaml(Path(__file__).with_name("catalog.yaml"))["recipes"]


def find_recipe(name: str) -> Recipe:
    """Return the recipe of this name; InputError, with the nearest one, if there is none."""
    entry = dict(_entries()[checks.one_of("recipe", name, _entries())])
    command = " ".join(["attnconv train --recipe", name, *entry.pop("flags", "").split()])
    config = RunConfig.from_dict(entry.pop("config"), source=f"recipe {name!r}")
    return Recipe(name=name, command=command, config=config, **entry)


def list_recipes() -> list[Recipe]:
    """Return all recipes."""
    return [find_recipe(name) for name in _entries()]
