"""What a recipe is: a configuration under a name, with its source, what was published for it and what was measured.

A recipe is written as a function that returns its RunConfig. The docstring has a fixed form, from which the list of
`attnconv train --list-recipes` is made: a sentence, the command, then Source, Expected and Measured.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from attnconv import checks
from attnconv.models.registry import model_options
from attnconv.train.config import YOUR_FOLDER, RunConfig

FORM = re.compile(
    r"(?P<title>.+?)\n\n(?P<command>attnconv train --recipe .+?)\n\n"
    r"Source: (?P<source>.+?)\nExpected: (?P<expected>.+?)\nMeasured: (?P<measured>.+)",
    re.DOTALL,
)
NOT_MEASURED = "not measured here"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A run under a name.

    Args:
        name: what --recipe takes.
        title: one sentence.
        command: that runs it, on the hardware it needs.
        config: all of its options.
        source: where its settings come from.
        expected: what was published for it, in percent top-1 if nothing else is said, or that nothing was.
        measured: what it gave here, or None.
    """

    name: str
    title: str
    command: str
    config: RunConfig
    source: str
    expected: str
    measured: str | None

    @property
    def needs_data(self) -> bool:
        """Whether --data must name a folder of images."""
        return self.config.data == YOUR_FOLDER

    def under(self, values: dict[str, Any]) -> dict[str, Any]:
        """The recipe's options with ``values``, of a file or the command line, laid over them.

        A recipe fixes everything but the network: given another one, it keeps those of its network's options that the
        other knows, too.

        Raises:
            InputError: an unknown network, or no data where the recipe needs some.
        """
        if self.needs_data and "data" not in values:
            raise checks.InputError(
                f"recipe {self.name!r} needs --data FOLDER, a folder with train/<class>/* and val/<class>/*"
            )
        mine = {f.name: getattr(self.config, f.name) for f in fields(RunConfig)}
        if "base_momentum" in values or "max_momentum" in values:
            del mine["momentum"]  # what the recipe keeps constant is cycled now
        known = model_options(values.get("model", self.config.model))
        options = {name: value for name, value in self.config.model_options.items() if name in known}
        return {**mine, **values, "model_options": {**options, **values.get("model_options", {})}}


Builder = Callable[[], RunConfig]
_BUILDERS: dict[str, Builder] = {}


def recipe(build: Builder) -> Builder:
    """Decorator: ``build`` makes the recipe of its name, - for _."""
    name = build.__name__.replace("_", "-")
    assert name not in _BUILDERS, name
    _BUILDERS[name] = build
    return build


def made(name: str) -> Recipe:
    """The recipe ``name``; InputError, with the nearest name, if there is none."""
    build = _BUILDERS[checks.one_of("recipe", name, _BUILDERS)]
    lines = "\n".join(line.strip() for line in (build.__doc__ or "").strip().splitlines())
    parts = FORM.fullmatch(lines)
    assert parts, f"the docstring of recipe {name} has another form"
    text = {key: " ".join(value.split()) for key, value in parts.groupdict().items()}
    measured = text.pop("measured")
    return Recipe(name=name, config=build(), measured=None if measured == NOT_MEASURED else measured, **text)


def names() -> tuple[str, ...]:
    """Of all recipes, in the order in which they were written."""
    return tuple(_BUILDERS)
