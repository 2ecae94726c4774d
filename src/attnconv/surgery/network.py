"""Parts of surgery: the modules of a network and their places, attention after a module, a trace, a list of changes."""

import copy
import dataclasses
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from attnconv import checks
from attnconv.layers.attention import Attention
from attnconv.layers.augmented_conv import Size
from attnconv.layers.padding import pixels_per_cell
from attnconv.layers.registry import replaces_conv

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Attended(nn.Module):
    """A module followed by attention: attention(inner(...)).

    This is a wrapper, not a forward hook, although both support compile, export and deepcopy. With a hook the attention
    would be a child of the module: a forward that loops over the children (nn.Sequential, DenseNet's blocks) would run
    it again, and tools that replace or fuse known modules (convolution with batch norm) would lose it.

    Shapes: the input of ``inner`` -> (B, C, *map), the shape of its output.

    Attributes, items and length are those of ``inner``, so ``model.layer1[0].conv1`` and
    ``model.get_submodule("layer1.0.conv1")`` still work. In the state dict the tensors of ``inner`` are one level
    deeper: "layer1.inner.0.conv1.weight", next to "layer1.attention.gamma". A state dict of the network without
    attention loads with ``strict=False``.
    """

    def __init__(self, inner: nn.Module, attention: Attention) -> None:
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
    """Rename "layer1.*" to "layer1.inner.*" unless the state dict has the attention."""
    assert isinstance(attended, Attended)
    names = plain_names(attended.inner).values()  # before any module inside was wrapped
    if not any(f"{prefix}inner.{name}" in state for name in (*names, *attended.inner.state_dict())):
        for name in names:
            if f"{prefix}{name}" in state:
                state[f"{prefix}inner.{name}"] = state.pop(f"{prefix}{name}")


def plain_names(module: nn.Module) -> dict[str, str]:
    """Return the names in the state dict of ``module`` before any module was wrapped, by their names now."""
    found = module.named_modules(remove_duplicate=False)
    wrapped = [f"{name}." if name else "" for name, m in found if isinstance(m, Attended)]
    names = {}
    for now in module.state_dict():
        name = now
        for outer in sorted(wrapped, key=len, reverse=True):  # innermost first
            if name.startswith(f"{outer}attention."):
                break
            if name.startswith(f"{outer}inner."):
                name = outer + name.removeprefix(f"{outer}inner.")
        else:
            names[now] = name
    return names


Model = TypeVar("Model", bound=nn.Module)
Example = Tensor | tuple[Any, ...]


@dataclass(frozen=True)
class Change:
    """The change of one module."""

    name: str  # dotted, as in model.get_submodule(name)
    before: str
    after: str
    map_size: tuple[int, ...]  # of the module's output in the trace, in cells
    params_before: int
    params_after: int


class Changes(list[Change]):
    """A list of `Change`; ``str()`` gives a plain-text table that ends with the change in parameters."""

    def __str__(self) -> str:
        rows = [("name", "before", "after", "map", "params")]
        for c in self:
            numbers = f"{c.params_before:,} -> {c.params_after:,}"
            rows.append((c.name, c.before, c.after, size_text(c.map_size), numbers))
        more = sum(c.params_after - c.params_before for c in self)
        rows.append((f"{len(self)} change{'s' * (len(self) != 1)}", "", "", "", f"{more:+,}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        align = (str.ljust, str.ljust, str.ljust, str.rjust, str.rjust)
        return "\n".join(
            "  ".join(put(cell, width) for put, cell, width in zip(align, row, widths, strict=True)) for row in rows
        )


def params(*modules: nn.Module) -> int:
    """Return the number of parameters of ``modules``."""
    return sum(p.numel() for module in modules for p in module.parameters())


def size_text(size: Iterable[int]) -> str:
    """Return (3, 5) as "3x5"."""
    return "x".join(map(str, size))


@dataclass(eq=False)
class Place:
    """A module under its first name; `Attended` adds no level to names and is not a place itself."""

    name: str
    module: nn.Module
    slots: list[tuple[nn.Module, str]] = field(default_factory=list)  # (parent, key); several for a shared module

    @property
    def attended(self) -> bool:
        return any(isinstance(parent, Attended) for parent, _ in self.slots)

    def put(self, module: nn.Module) -> None:
        """Put ``module`` here."""
        for parent, key in self.slots:
            parent.add_module(key, module)


def places(model: nn.Module) -> list[Place]:
    """Return ``model`` and its modules in the order of registration, without the insides of attention layers."""
    found = {model: Place("", model)}
    for name, parent, key, child in _walk(model, "", {model}):
        found.setdefault(child, Place(name, child)).slots.append((parent, key))
    return list(found.values())


def _walk(parent: nn.Module, prefix: str, seen: set[nn.Module]) -> Iterator[tuple[str, nn.Module, str, nn.Module]]:
    for key, child in parent._modules.items():
        if child is None:
            continue
        inside = isinstance(parent, Attended)
        if inside and key == "attention":
            continue
        name = prefix if inside else f"{prefix}.{key}".removeprefix(".")
        if not isinstance(child, Attended):
            yield name, parent, key, child
        if child not in seen and not isinstance(child, Attention):
            seen.add(child)
            yield from _walk(child, name, seen)


def note_step(model: nn.Module, name: str, arguments: dict[str, Any]) -> None:
    """Record a step of surgery in the blueprint of a network of `attnconv.models.create_model`."""
    blueprint: Any = getattr(model, "blueprint", None)
    if blueprint is not None:
        model.blueprint = dataclasses.replace(blueprint, attention=[*blueprint.attention, {name: arguments}])  # pyright: ignore[reportAttributeAccessIssue]


def note_paths(model: nn.Module, sized: Iterable[nn.Module] = (), image_size: Size | None = None) -> None:
    """Give attention layers their names in ``model``, and layers ``sized`` for such images their stride."""
    sized = set(sized)
    for name, layer in model.named_modules():
        if isinstance(layer, Attention):
            layer._path, cells = name, layer.largest_map
            if layer in sized and image_size is not None and cells is not None:
                pixels = image_size if isinstance(image_size, (tuple, list)) else (image_size,) * len(cells)
                if len(cells) == len(pixels):
                    layer._pixels_per_cell = tuple(map(pixels_per_cell, pixels, cells))


def nearest_names(kind: str, name: str, known: Iterable[str]) -> str:
    """Return a clause with the three names of ``kind`` closest to ``name``."""
    close = checks.closest(name, known, 3)
    return f"nearest {kind}: {', '.join(map(repr, close))}" if close else f"the model has no {kind}"


def working_copy(model: Model, *, inplace: bool) -> Model:
    """Return ``model`` itself or a deep copy."""
    if not isinstance(model, nn.Module):
        raise checks.InputTypeError(f"model must be an nn.Module, got {type(model).__name__}")
    if inplace:
        return model
    with checks.explained("the model cannot be copied, pass inplace=True", RuntimeError, TypeError):
        return copy.deepcopy(model)


@dataclass(frozen=True)
class Output:
    """The output of one call of a module."""

    what: str  # in words
    shape: tuple[int, ...] = ()
    dtype: torch.dtype | None = None
    device: torch.device | None = None

    @classmethod
    def of(cls, output: Any) -> "Output":
        if not isinstance(output, Tensor):
            return cls(f"a {type(output).__name__}")
        shape = tuple(output.shape)
        dtype = str(output.dtype).removeprefix("torch.")
        return cls(f"a tensor of {dtype} and shape {shape}", shape, output.dtype, output.device)

    @property
    def map_size(self) -> tuple[int, ...]:
        return self.shape[2:]


def trace(
    model: nn.Module, modules: Iterable[nn.Module], *, image_size: Size | None, example: Example | None
) -> dict[nn.Module, list[Output]]:
    """Run ``model`` once, in evaluation mode without gradients; return the outputs of each call of ``modules``.

    Modes, buffers and hooks of the model stay as they are.

    Args:
        image_size: the model runs on zeros (1, C, *image_size), in pixels, with the channels and the number of axes of
            its first convolution; an int stands for all axes. A torchvision detector, which resizes its images, runs on
            the largest batch that its max_size allows.
        example: a tensor, or a tuple of positional arguments, to run on instead.
    """
    inputs = _inputs(model, image_size, example)
    outputs: dict[nn.Module, list[Output]] = {module: [] for module in modules}

    def see(module: nn.Module, _: Any, output: Any) -> None:
        outputs[module].append(Output.of(output))

    try:
        with ExitStack() as stack, _unchanged(model), torch.no_grad(), _without_autocast(model):
            for module in outputs:
                stack.enter_context(module.register_forward_hook(see))
            model(*inputs)
    except Exception as error:  # of the user's model
        given = "the example"
        if example is None:
            shapes = (str(tuple(x.shape)) for x in (inputs if isinstance(inputs[0], Tensor) else inputs[0]))
            given = f"zeros of {' and '.join(shapes)}; pass example=, an input that it takes"
        reason = checks.first_line(error)
        raise checks.InputError(f"{type(model).__name__} does not run on {given}: {reason}") from error
    return outputs


def first_conv(model: nn.Module) -> Any:
    """Return the first registered convolution of ``model``; None if it has none."""
    return next((module for module in model.modules() if isinstance(module, CONVS) or replaces_conv(module)), None)


def only_call(name: str, outputs: list[Output]) -> Output:
    """Return the output of a module; raise unless it ran exactly once."""
    if not outputs:
        raise checks.InputError(f"{name} does not run in the model's forward (in evaluation mode)")
    if len(outputs) > 1:
        raise checks.InputError(f"{name} runs {len(outputs)} times in the model's forward (shared weights), not once")
    return outputs[0]


def _inputs(model: nn.Module, image_size: Size | None, example: Example | None) -> tuple[Any, ...]:
    if example is not None:
        if not isinstance(example, (Tensor, tuple)):
            raise checks.InputTypeError(f"example must be a tensor or a tuple, got {type(example).__name__}")
        return example if isinstance(example, tuple) else (example,)
    if (first := first_conv(model)) is None:
        raise checks.InputError(
            f"{type(model).__name__} has no convolution that tells its input's channels; pass example="
        )
    zeros = next(first.parameters()).new_zeros
    if (side := _longest_side(model)) is not None:  # a wide and a tall image give the largest map
        return ([zeros(first.in_channels, 1, side), zeros(first.in_channels, side, 1)],)
    if image_size is None:
        raise checks.InputError("image_size is needed, or example=, an input of the model")
    size = checks.per_axis("image_size", image_size, len(first.kernel_size), at_least=1)
    return (zeros(1, first.in_channels, *size),)


def _longest_side(model: nn.Module) -> int | None:
    """Return the longest side in pixels to which a torchvision detector resizes images; None for other networks."""
    kind = getattr(sys.modules.get("torchvision.models.detection.transform"), "GeneralizedRCNNTransform", ())
    modules: Iterator[Any] = model.modules()
    return next((module.max_size for module in modules if isinstance(module, kind)), None)


def _without_autocast(model: nn.Module) -> AbstractContextManager[Any]:
    """Turn off the caller's autocast, which would hide the model's own dtypes."""
    device = next((p.device.type for p in model.parameters()), "cpu")
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode inside the ``with`` block; restore all modes and buffers."""
    modes = {module: module.training for module in model.modules()}
    buffers = {module: dict(module._buffers) for module in modes}
    values = [(b, b._version, b.clone()) for held in buffers.values() for b in held.values() if b is not None]
    try:
        for module in modes:
            module.training = False  # not eval(), which models override
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
            module._buffers.clear()
            module._buffers.update(buffers[module])
        for buffer, version, value in values:
            if buffer._version != version:
                with torch.no_grad():
                    buffer.copy_(value)
