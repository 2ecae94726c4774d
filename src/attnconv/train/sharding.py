"""Weights, gradients and optimiser state split over the processes: FSDP2 through Fabric."""

from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.optim import Optimizer

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def shard(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Split ``model`` in place: each child with weights by itself, so that only one is whole at a time."""
    mesh = mesh["data_parallel"]
    for child in model.children():
        if any(True for _ in child.parameters()):
            fully_shard(child, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def broadcast_buffers(model: nn.Module) -> None:
    """Give all processes the first one's statistics of batch norm: each has seen its own images only."""
    for buffer in model.buffers():
        torch.distributed.broadcast(buffer, src=0)


def whole_state(model: nn.Module, optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """The states of model and optimiser, whole and on the CPU, in the first process; empty in the others."""
    return get_model_state_dict(model, options=WHOLE), get_optimizer_state_dict(model, optimizer, options=WHOLE)


def load_whole_state(model: nn.Module, optimizer: Optimizer, weights: dict[str, Any], state: dict[str, Any]) -> None:
    """Put what ``whole_state`` gave, and each process has read, back into the parts."""
    options = StateDictOptions(full_state_dict=True)
    set_model_state_dict(model, weights, options=options)
    set_optimizer_state_dict(model, optimizer, _by_name(model, optimizer, state), options=options)


def _by_name(model: nn.Module, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """``state`` with its parameters by name: a single process, which shares out nothing, has numbered them."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    ordered = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    named = dict(enumerate(ordered)) | {name: name for name in ordered}
    return {
        "state": {named[key]: value for key, value in state["state"].items()},
        "param_groups": [
            {**group, "params": [named[key] for key in group["params"]]} for group in state["param_groups"]
        ],
    }
