"""The places where trainers save weights: a state dict, or a whole module, inside dicts of other things.

Prefixes that wrappers put in front of the names are taken off where all names have them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from attnconv import checks
from attnconv.foreign.stored import Stored
from attnconv.foreign.unpickler import Budget, StandIn, kind_of
from attnconv.shown import quoted

Value = TypeVar("Value")
Tensors = dict[str, Tensor | Stored]

PLAIN = ("state_dict", "model", "net", "params", "weights", "student")
AVERAGED = ("state_dict_ema", "model_ema", "params_ema", "ema", "teacher")
MOST = 8  # wrappers in each other
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "encoder_q.", "0.")
# Beside the query encoder, MoCo saves another and a queue; beside the weights, torch's average its number of updates.
LEFT_OUT = {"encoder_q.": ("encoder_k.", "queue"), "module.": ("n_averaged",)}
DEEPEST = 5  # dicts in dicts around the weights
VISITED = 30  # bytes that count for an entry that is looked at: a dict that holds itself is looked at many times
NAMED = 300  # bytes of memory that the place of a module or tensor takes at most, beside its name


@dataclass(frozen=True)
class Place:
    """Tensors and the keys that led to them."""

    keys: tuple[str, ...]
    tensors: Tensors


def find(value: Any, budget: Budget, *, average: bool) -> Place:
    """Return the state dict in ``value``; with ``average``, that of the averaged weights.

    Raises:
        InputError: there is none; the message says what is there.
    """
    if place := _find(value, (), budget, average):
        return place
    label, held = budget.label, _held(value)
    if average:
        raise checks.InputError(f"{label} holds no averaged weights, under {' or '.join(AVERAGED)}: it holds {held}")
    if place := _find(value, (), budget, True):
        raise checks.InputError(
            f"{label} holds averaged weights alone, under {'.'.join(place.keys)}: ask for them by average=True"
        )
    raise checks.InputError(f"{label} holds no tensors by name: it holds {held}")


def _find(value: Any, keys: tuple[str, ...], budget: Budget, average: bool) -> Place | None:
    if len(keys) > DEEPEST:
        return None
    entries = _entries(value)
    budget.take(VISITED * (1 + len(entries)))
    if average and (place := _first(entries, AVERAGED, keys, budget, False)):
        return place
    if _is_module(value):
        return None if average else _place(keys, module_tensors(value, budget))
    if place := _first(entries, PLAIN, keys, budget, average):
        return place
    if average:
        return None
    return _place(keys, {key: item for key, item in entries.items() if isinstance(item, Tensor | Stored)})


def _first(
    entries: Mapping[Any, Any], names: tuple[str, ...], keys: tuple[str, ...], budget: Budget, average: bool
) -> Place | None:
    """Return the tensors under the first of ``names`` under which there are any."""
    for name in names:
        if name in entries and (place := _find(entries[name], (*keys, name), budget, average)):
            return place
    return None


def _place(keys: tuple[str, ...], tensors: Mapping[Any, Any]) -> Place | None:
    return Place(keys, {str(name): tensor for name, tensor in tensors.items()}) if tensors else None


def _entries(value: Any) -> Mapping[Any, Any]:
    """Return the entries of a dict, or the attributes of an object of an unknown class."""
    if isinstance(value, StandIn):
        return value.items or (value.state if isinstance(value.state, dict) else {})
    return value if isinstance(value, Mapping) else {}


def _module_state(value: Any) -> dict[Any, Any] | None:
    """Return the attributes of a module of an unknown class; None if ``value`` is something else."""
    if isinstance(value, StandIn):
        first = value.args[0] if type(value.args) is tuple and value.args else None  # torch.fx saves them there
        for state in (value.state, first):
            if isinstance(state, dict) and isinstance(state.get("_modules"), dict) and "_parameters" in state:
                return state
    return None


def _is_module(value: Any) -> bool:
    return isinstance(value, nn.Module) or _module_state(value) is not None


def module_tensors(module: Any, budget: Budget) -> Tensors:
    """Return what ``state_dict()`` of a module would: parameters and persistent buffers, by their dotted names.

    A module that stands in many places is there under many names, which the ``budget`` bounds; so it does modules that
    hold each other.
    """
    if isinstance(module, nn.Module):
        return module.state_dict()
    found: Tensors = {}
    waiting: list[tuple[str, Any]] = [("", module)]
    while waiting:
        prefix, part = waiting.pop()
        if (state := _module_state(part)) is None:
            continue
        listed = state.get("_non_persistent_buffers_set")
        passing = {name for name in listed if type(name) is str} if isinstance(listed, (list, tuple)) else set()
        budget.take(NAMED * len(passing))
        for kind in ("_parameters", "_buffers"):
            for name, tensor in _entries(state.get(kind)).items():
                budget.take(NAMED + len(prefix) + len(str(name)))
                if isinstance(tensor, Stored) and not (kind == "_buffers" and name in passing):
                    found[f"{prefix}{name}"] = tensor
        for name, child in reversed(list(state["_modules"].items())):
            budget.take(NAMED + len(prefix) + len(str(name)))
            waiting.append((f"{prefix}{name}.", child))
    return found


def _held(value: Any) -> str:
    """Return a clause on what ``value`` holds: the first names and kinds."""
    entries = _entries(value)
    if not entries:
        return "nothing" if isinstance(value, Mapping) else f"no dict, but {quoted(kind_of(value))}"
    first = [f"{quoted(str(key))} ({quoted(kind_of(item))[1:-1]})" for key, item in list(entries.items())[:5]]
    return ", ".join(first) + (", ..." if len(entries) > 5 else "")


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
