"""Initial weights of attention layers, each drawn from a generator of its own, keyed on a state and the layer's name.

No layer then shifts the numbers of another, or of the network around it.
"""

import contextlib
import hashlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Restore the state of torch's generators at the end of the ``with`` block."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        yield


def generator_state() -> bytes:
    """Return the state of the CPU generator; nothing on the meta device and under fake tensors, where none draws."""
    drawn = torch.empty(0).untyped_storage().device.type != "meta"
    return bytes(torch.get_rng_state().numpy()) if drawn else b""


def set_state(state: bytes) -> None:
    """Set the CPU generator to a state of `generator_state`."""
    if state:
        torch.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))


@contextlib.contextmanager
def own_generator(state: bytes, name: str) -> Iterator[None]:
    """Seed torch's generators with ``state`` and the dotted ``name`` of a layer inside the ``with`` block."""
    if not state:
        yield
        return
    digest = hashlib.sha256(state + name.encode()).digest()
    with generators_kept():
        torch.manual_seed(int.from_bytes(digest[:8], "little", signed=True))
        yield


def advance() -> None:
    """Draw a number from the CPU generator, so that the layers of the next network differ."""
    torch.rand((), device="cpu")
