"""A network as a graph, by torch's exporters: its batch free and, where the network allows, rows and columns too.

Letters: B batch, C channels, H rows, W columns.
"""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.fx.experimental._config
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from attnconv import checks
from attnconv.layers.augmented_conv import AugmentedConvNd
from attnconv.models.image_sizes import Range, Sizes
from attnconv.ops.kernel_choice import AttentionProblem, why_not


def require_exportable(model: nn.Module) -> None:
    """Pass if no layer asks for a kernel that exported programs do not know.

    Raises:
        InputError: one does; the message says which and what to use instead.
    """
    for name, layer in model.named_modules():
        if not isinstance(layer, AugmentedConvNd) or layer.impl == "auto":
            continue
        problem = AttentionProblem(
            map_size=layer.feat_size or (1,),
            head_dim=layer.head_dim,
            value_dim=layer.value_channels // layer.num_heads,
            export="onnx",
        )
        if (reason := why_not(layer.impl, problem)) is not None:
            raise checks.InputError(
                f"layer {name!r} has impl={layer.impl!r}, which cannot be exported: {reason}; set its impl to 'auto', "
                "or to 'eager' or 'sdpa'"
            )


def example(channels: int, image_size: Sequence[int]) -> Tensor:
    """Images to trace with; two, for one would be taken for a constant."""
    return torch.zeros(2, channels, *image_size)


def dims(sizes: Sizes) -> dict[int, Any]:
    """What is free in (B, C, H, W), for torch's exporters; an axis that the network ties to a number becomes it."""

    def free(found: Range) -> Any:
        low, high = found
        return Dim.AUTO(min=low) if high is None else Dim.AUTO(min=low, max=high)

    found: dict[int, Any] = {0: Dim.AUTO(min=1)}
    if sizes.dynamic:
        found |= {2: free(sizes.rows), 3: free(sizes.columns)}
    return found


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """In which a size of 1 is a size like others, as torch.onnx has it, and the exporters' own remarks are silent."""
    # Private, but the only way: otherwise a free size is taken to be at least 2, on every map in the network.
    with torch.fx.experimental._config.patch(backed_size_oblivious=True), warnings.catch_warnings():  # type: ignore[attr-defined]
        warnings.simplefilter("ignore")
        yield


def captured_sizes(program: ExportedProgram, asked: Sizes) -> Sizes:
    """The image sizes of ``program``, which may be fewer than were ``asked`` for.

    Raises:
        RuntimeError: the batch is not free.
    """
    names = set(program.graph_signature.user_inputs)
    shape = next(node.meta["val"].shape for node in program.graph.nodes if node.name in names)
    if isinstance(shape[0], int):
        raise RuntimeError(f"the network can be exported for batches of {shape[0]} alone")

    def found(axis: int, wanted: Range) -> Range:
        if isinstance(shape[axis], int):
            return (shape[axis], shape[axis])
        limits = program.range_constraints.get(shape[axis].node.expr)
        low, high = wanted
        if limits is None:
            return wanted
        low = max(low, int(limits.lower))
        upper = None if limits.upper > 1 << 40 else int(limits.upper)  # beyond: torch's infinity
        return low, min((n for n in (high, upper) if n is not None), default=None)

    return Sizes(found(2, asked.rows), found(3, asked.columns))
