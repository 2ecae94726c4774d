"""Runs put together: from a RunConfig, or a recipe's name, to a network, its data and the training loop."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from attnconv.recipes.catalog import find_recipe, list_recipes
from attnconv.recipes.known import dense_models, require_known
from attnconv.recipes.recipe import Recipe
from attnconv.recipes.run import default_out, run
from attnconv.recipes.trained import Trained, load_trained
from attnconv.train.config import RunConfig

# Of `example`, loaded when first asked for: it is a program as well, and Python warns of one that is loaded already.
_EXAMPLE = ("ExampleImage", "example_images", "load_example")

__all__ = [
    "ExampleImage",
    "Recipe",
    "RunConfig",
    "Trained",
    "default_out",
    "dense_models",
    "example_images",
    "find_recipe",
    "list_recipes",
    "load_example",
    "load_trained",
    "require_known",
    "run",
]

if TYPE_CHECKING:
    from attnconv.recipes.example import ExampleImage, example_images, load_example


def __getattr__(name: str) -> Any:
    if name in _EXAMPLE:
        return getattr(import_module("attnconv.recipes.example"), name)
    raise AttributeError(f"module 'attnconv.recipes' has no attribute {name!r}")
