"""First weights that an attention network shares with its plain twin: runs of a seed then differ by attention alone.

An augmented convolution's ``conv_out`` has the first filters of the twin's convolution. What attention adds is drawn
from generators of its own, one a layer, so that neither shifts the other's numbers.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from attnconv.layers.attention import Attention
from attnconv.models.init_from import initialise

if TYPE_CHECKING:
    from attnconv.models.network import HubNetwork


def has_memory(model: nn.Module) -> bool:
    """True unless the weights are on the meta device, or only pretend not to be."""
    return all(parameter.untyped_storage().device.type != "meta" for parameter in model.parameters())


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Put torch's generators back at the end of the block."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        yield


def share_draws(model: "HubNetwork", name: str, plain: Callable[[], nn.Module]) -> None:
    """Give ``model``, the network ``name``, the weights of ``plain()``, drawn where torch's generators stand.

    Each attention layer is drawn from the state of the CPU's generator and the layer's dotted name.
    """
    state = bytes(torch.get_rng_state().numpy())
    initialise(model, name, plain().state_dict())
    for dotted, layer in model.named_modules():
        if isinstance(layer, Attention):
            digest = hashlib.sha256(state + dotted.encode()).digest()
            with generators_kept():
                torch.manual_seed(int.from_bytes(digest[:8], "little", signed=True))
                layer.reset_attention(model.initialise)
