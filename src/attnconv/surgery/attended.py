"""A module of somebody else's network with attention behind it.

A wrapper and not a forward hook: both go through compile, export and deepcopy, but with a hook the attention
would have to live among the module's own children, where a forward that loops over them (nn.Sequential, DenseNet's
blocks) runs it once more, and tools that replace or fuse a module they know (convolution with batch norm) lose it.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from attnconv.layers import SelfAttention, SimpleSelfAttention


class Attended(nn.Module):
    """attention(inner(...)): ``inner`` is the wrapped module, ``attention`` takes its output.

    Shapes: whatever ``inner`` takes -> (B, C, *map), as ``inner`` gives it.

    Attributes, items and length are those of ``inner``, so code that reads ``model.layer1[0].conv1``, and
    ``model.get_submodule("layer1.0.conv1")``, go on working. In the state dict the tensors of ``inner`` stand one
    level deeper, "layer1.inner.0.conv1.weight", beside "layer1.attention.gamma"; a state dict of the network without
    attention loads too, with ``strict=False`` for the attention that it lacks.
    """

    def __init__(self, inner: nn.Module, attention: SelfAttention | SimpleSelfAttention) -> None:
        super().__init__()
        self.inner = inner
        self.attention = attention
        self.training = inner.training
        self.register_load_state_dict_pre_hook(_take_names_without_attention)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.attention(self.inner(*args, **kwargs))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "inner" or "inner" not in self.__dict__.get("_modules", ()):  # while a copy is being built
                raise
            return getattr(self.inner, name)

    def __getitem__(self, index: Any) -> Any:
        return self.inner[index]  # type: ignore[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.inner)  # type: ignore[call-overload]

    def __len__(self) -> int:
        return len(self.inner)  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        return True  # not by the length, which most modules lack


def _take_names_without_attention(attended: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Move "layer1.*" to "layer1.inner.*", unless the state dict knows of the attention."""
    assert isinstance(attended, Attended)
    names = _names_without_attention(attended.inner)
    if not any(f"{prefix}inner.{name}" in state for name in (*names, *attended.inner.state_dict())):
        for name in names:
            if f"{prefix}{name}" in state:
                state[f"{prefix}inner.{name}"] = state.pop(f"{prefix}{name}")


def _names_without_attention(module: nn.Module) -> list[str]:
    """The names of ``module``'s state as they were before any module inside it was wrapped."""
    wrapped = [f"{name}." if name else "" for name, m in module.named_modules() if isinstance(m, Attended)]
    names = []
    for name in module.state_dict():
        for outer in sorted(wrapped, key=len, reverse=True):  # the innermost first, whose name holds the others
            if name.startswith(f"{outer}attention."):
                break
            if name.startswith(f"{outer}inner."):
                name = outer + name.removeprefix(f"{outer}inner.")
        else:
            names.append(name)
    return names
