"""Runs put together: from a RunConfig to a network, its data and the training loop."""

from attnconv.recipes.run import default_out, run
from attnconv.recipes.trained import Trained, load_trained

__all__ = ["Trained", "default_out", "load_trained", "run"]
