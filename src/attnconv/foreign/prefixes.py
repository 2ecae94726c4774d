"""Prefixes that wrappers put in front of the names of a network's tensors, taken off where all names have them."""

from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")

MOST = 8  # wrappers in each other
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "encoder_q.", "0.")
# Beside the query encoder, MoCo saves another and a queue; beside the weights, torch's average its number of updates.
LEFT_OUT = {"encoder_q.": ("encoder_k.", "queue"), "module.": ("n_averaged",)}


def stripped(tensors: Mapping[str, Value]) -> tuple[dict[str, Value], list[str], list[str]]:
    """Return the tensors without what their names share, what that was, and the names that were left out for it."""
    found, taken_off, left_out = dict(tensors), [], []
    while len(taken_off) < MOST and (step := _one_step(found)):
        found, prefix, without = step
        taken_off.append(prefix)
        left_out += without
    return found, taken_off, left_out


def _one_step(tensors: dict[str, Value]) -> tuple[dict[str, Value], str, list[str]] | None:
    for prefix in WRAPPERS:
        aside = [name for name in tensors if name.startswith(LEFT_OUT.get(prefix, "\0"))]
        without = set(aside)
        rest = {name: tensor for name, tensor in tensors.items() if name not in without} if aside else tensors
        if rest and all(name.startswith(prefix) and len(name) > len(prefix) for name in rest):
            return {name.removeprefix(prefix): tensor for name, tensor in rest.items()}, prefix, aside
    bodies = ("backbone.", "head.")
    if all(name.startswith(bodies) for name in tensors) and any(name.startswith(bodies[0]) for name in tensors):
        short = {name.split(".", 1)[1]: tensor for name, tensor in tensors.items()}
        if len(short) == len(tensors) and all(short):
            both = any(name.startswith(bodies[1]) for name in tensors)
            return short, " and ".join(bodies if both else bodies[:1]), []
    return None
