"""Training runs: from a RunConfig or a recipe's name to a network, its data and the training loop."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from attnconv.recipes.catalog import Recipe, find_recipe, list_recipes
from attnconv.train.config import RunConfig

if TYPE_CHECKING:
    from attnconv.recipes.script import fit
    from attnconv.recipes.trained import ExampleImage, Trained, example_images, load_example, load_trained
    from attnconv.recipes.training import default_out, require_known, run

# Loaded on first use: the catalogue needs no torch, and a run needs no trained network.
_LATER = {
    "fit": "script",
    **dict.fromkeys(("default_out", "require_known", "run"), "training"),
    **dict.fromkeys(("ExampleImage", "Trained", "example_images", "load_example", "load_trained"), "trained"),
}

__all__ = [
    "ExampleImage",
    "Recipe",
    "RunConfig",
    "Trained",
    "default_out",
    "example_images",
    "find_recipe",
    "fit",
    "list_recipes",
    "load_example",
    "load_trained",
    "require_known",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"attnconv.recipes.{_LATER[name]}"), name)
    raise AttributeError(f"module 'attnconv.recipes' has no attribute {name!r}")
