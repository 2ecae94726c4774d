"""One forward that shows what modules return, and leaves a model's modes, buffers and hooks as they were."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnconv import checks
from attnconv.layers.augmented_conv import AugmentedConvNd, Size

Example = Tensor | tuple[Any, ...]


@dataclass(frozen=True)
class Output:
    """What one call of a module returned."""

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
    """Run ``model`` once, in evaluation mode and without gradients: the outputs of ``modules``, one for each call.

    Args:
        image_size: the model runs on zeros (1, C, *image_size), C and the number of axes being those of the first
            convolution in the model; an int stands for all axes. In pixels.
        example: a tensor, or a tuple of positional arguments, to run on instead.
    """
    inputs = _inputs(model, image_size, example)
    outputs: dict[nn.Module, list[Output]] = {module: [] for module in modules}

    def see(module: nn.Module, _: Any, output: Any) -> None:
        outputs[module].append(Output.of(output))

    handles = [module.register_forward_hook(see) for module in outputs]
    try:
        with _unchanged(model), torch.no_grad(), _without_autocast(model):
            model(*inputs)
    except Exception as error:  # whatever a foreign model may raise
        given = "the example"
        if example is None:
            given = f"zeros of {tuple(inputs[0].shape)}; pass example=, an input that it takes"
        reason = checks.first_line(error)
        raise checks.InputError(f"{type(model).__name__} does not run on {given}: {reason}") from error
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def only_call(name: str, outputs: list[Output]) -> Output:
    """The output of a module that has to run just once."""
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
    if image_size is None:
        raise checks.InputError("image_size is needed, or example=, an input of the model")
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, AugmentedConvNd)
    first = next((module for module in model.modules() if isinstance(module, kinds)), None)
    if first is None:
        raise checks.InputError(
            f"{type(model).__name__} has no convolution that tells its input's channels; pass example="
        )
    size = checks.per_axis("image_size", image_size, len(first.kernel_size), at_least=1)
    return (next(first.parameters()).new_zeros(1, first.in_channels, *size),)


def _without_autocast(model: nn.Module) -> AbstractContextManager[Any]:
    """The caller's autocast would show another dtype than the model's own."""
    device = next((p.device.type for p in model.parameters()), "cpu")
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within; every mode and buffer is afterwards what it was."""
    modes = {module: module.training for module in model.modules()}
    buffers = {module: dict(module._buffers) for module in modes}
    values = [(b, b._version, b.clone()) for held in buffers.values() for b in held.values() if b is not None]
    try:
        for module in modes:
            module.training = False  # not eval(): models override it
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
