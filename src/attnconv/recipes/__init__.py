"""Runs put together: from a RunConfig, or a recipe's name, to a network, its data and the training loop."""

from attnconv.recipes.catalog import find_recipe, list_recipes
from attnconv.recipes.known import dense_models, require_known
from attnconv.recipes.recipe import Recipe
from attnconv.recipes.run import default_out, run
from attnconv.recipes.trained import Trained, load_trained

__all__ = [
    "Recipe",
    "Trained",
    "default_out",
    "dense_models",
    "find_recipe",
    "list_recipes",
    "load_trained",
    "require_known",
    "run",
]
