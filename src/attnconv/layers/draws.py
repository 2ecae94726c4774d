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
def from_state(state: bytes) -> Iterator[None]:
    """Set the CPU generator to a state of `generator_state` inside the ``with`` block."""
    with generators_kept():
        set_state(state)
        yield


@contextlib.contextmanager
def own_generator(state: bytes, name: str) -> Iterator[None]:
    """Seed the generators of the CPU and the current GPU with ``state`` and a layer's dotted ``name`` in the block."""
    if not state:
        yield
        return
    digest = hashlib.sha256(state + name.encode()).digest()
    seed = int.from_bytes(digest[:8], "little", signed=True)
    with generators_kept():
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed devices that are not restored
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed(seed)
        yield


def advance(state: bytes) -> None:
    """Draw a number after ``state``, so that the layers of the next network differ."""
    if state:
        torch.rand((), device="cpu")
