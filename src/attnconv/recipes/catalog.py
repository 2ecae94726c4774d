"""All recipes by name. The catalogs are imported in the order in which the list shows them."""

from attnconv.recipes import catalog_imagenette  # isort: skip
from attnconv.recipes import catalog_leaderboard  # isort: skip
from attnconv.recipes import catalog_cifar  # isort: skip
from attnconv.recipes import catalog_imagenet  # isort: skip
from attnconv.recipes.recipe import Recipe, made, names

CATALOGS = (catalog_imagenette, catalog_leaderboard, catalog_cifar, catalog_imagenet)


def find_recipe(name: str) -> Recipe:
    """The recipe of this name; InputError, with the nearest one, if there is none."""
    return made(name)


def list_recipes() -> list[Recipe]:
    """All of them."""
    return [made(name) for name in names()]
