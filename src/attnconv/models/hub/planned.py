"""The network that a saved file describes, held to the weights that are there before any memory is taken for it.

Such a file may come from anybody. Its network is built on the meta device, where tensors have no memory, and is given
up as soon as it has more tensors than the weights can be of.
"""

import contextlib
import re
import threading
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from attnconv import checks
from attnconv.models.hub.blueprint import Blueprint
from attnconv.models.hub.methods import HubNetwork
from attnconv.models.hub.remake import make
from attnconv.weights import Shapes, difference, shapes_of, unfit

LARGEST = 1 << 16  # of an integer in a network's name or among its options
# While a network is built, a tensor may come and go: one of a classifier or a table that is resized, a weight that
# becomes constrained. So many times the file's tensors, and so many more; the same of the numbers in them.
TIMES, MORE_TENSORS, MORE_NUMBERS = 4, 64, 1 << 24


def planned(blueprint: Blueprint, given: Shapes, *, source: str, otherwise: str) -> dict[str, Tensor]:
    """The state of the network of ``blueprint``, on the meta device.

    Args:
        given: of the weights that are there.
        source: of the blueprint, for messages.
        otherwise: how the sentence begins that says in what the weights differ.
    Raises:
        InputError: there is no such network, it is not that of the weights, or building it would take much more
            memory than they do.
    """
    for value in _integers([blueprint.name, dict(blueprint.options)]):
        if abs(value) > LARGEST:
            raise checks.InputError(
                f"{source}: numbers of a network's name and options are at most {LARGEST}, got {value}"
            )
    most = TIMES * len(given) + MORE_TENSORS
    try:
        with torch.device("meta"), _counted(most) as counted:
            state = make(blueprint).state_dict()
    except checks.InputError as error:
        raise checks.InputError(f"{source}: {error}") from None
    except Exception as error:  # what options of the wrong kind, or out of all range, lead to
        reason = checks.first_line(error)
        raise checks.InputError(f"{source}: {blueprint.name} cannot be built with these options: {reason}") from error
    if problem := difference(given, shapes_of(state)):
        raise checks.InputError(f"{otherwise}: {problem}")
    if counted.numbers > TIMES * sum(map(prod, given.values())) + MORE_NUMBERS:
        raise checks.InputError(f"{source}: building this {blueprint.name} takes far more memory than its weights do")
    return state


def remade(blueprint: Blueprint, weights: Mapping[str, Tensor], *, source: str, otherwise: str) -> HubNetwork:
    """The network of ``blueprint`` with these weights, on the CPU; arguments and InputError as `planned`.

    Raises:
        InputError: also if a weight is no finite floating-point number.
    """
    wanted = planned(blueprint, shapes_of(weights), source=source, otherwise=otherwise)
    if problem := unfit(weights, wanted):
        raise checks.InputError(f"{otherwise}: {problem}")
    with torch.random.fork_rng(devices=[]):  # the weights that are drawn are thrown away
        model = make(blueprint)
    model.load_state_dict(weights)
    return model


class _Counted:
    """Tensors that modules were given, and the numbers in them."""

    def __init__(self, most: int) -> None:
        self.most, self.tensors, self.numbers = most, 0, 0
        self.thread = threading.get_ident()

    def __call__(self, module: nn.Module, name: str, tensor: Tensor | None) -> None:
        if tensor is None or threading.get_ident() != self.thread:
            return
        self.tensors, self.numbers = self.tensors + 1, self.numbers + tensor.numel()
        if self.tensors > self.most:
            raise checks.InputError("this network has far more tensors than its weights' file")


@contextlib.contextmanager
def _counted(most: int) -> Iterator[_Counted]:
    """Count the tensors that this thread's modules are given in the block; InputError above ``most``."""
    counted = _Counted(most)
    hooks = (
        register_module_parameter_registration_hook(counted),
        register_module_buffer_registration_hook(counted),
    )
    try:
        yield counted
    finally:
        for hook in hooks:
            hook.remove()


def _integers(value: Any) -> Iterator[int]:
    """Yield the integers in plain values, and those that stand in texts such as wide_resnet28_10."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _integers(item)
    elif isinstance(value, str):
        yield from (LARGEST + 1 if len(digits) > 9 else int(digits) for digits in re.findall(r"\d+", value))
    elif isinstance(value, int):
        yield value
