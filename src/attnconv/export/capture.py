"""Parts that both exports share: prepare and capture the network, keep sizes free, compare the file with PyTorch.

Letters: B batch, C channels, H rows, W columns.
"""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
import torch.fx.experimental._config
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.utils import parametrize

from attnconv import checks
from attnconv.export.network import config_text
from attnconv.files import replacing
from attnconv.models.image_sizes import Range, Sizes, require_covered, sizes_of
from attnconv.models.saved import checked_meta, config_of, describe
from attnconv.ops.fused_attention import FUSED

BATCHES = (1, 2, 5)
# Share of the largest output. Rounding alone gives 1e-6 in most networks, and 3e-4 in an untrained aa_resnet50, whose
# softmaxes are nearly steps.
TOLERANCE = 1e-3


class DisagreementError(RuntimeError):
    """An exported network whose outputs differ from PyTorch's."""


@dataclass(frozen=True)
class Difference:
    """The difference of two outputs for the same images."""

    batch: int
    rows: int
    columns: int
    largest: float  # absolute difference of two outputs
    scale: float  # largest absolute output of the original

    def __str__(self) -> str:
        return (
            f"{self.largest:.1e} of outputs up to {self.scale:.3g} (batch {self.batch}, {self.rows} x {self.columns})"
        )


def cases(sizes: Sizes, image_size: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return (batch, rows, columns): three batches at ``image_size`` and, if it is free, two oblong sizes."""
    rows, columns = image_size
    found = [(batch, rows, columns) for batch in BATCHES]
    if sizes.dynamic:
        (low, most), (left, widest) = sizes.rows, sizes.columns
        most, widest = most or rows + rows // 4 + 1, widest or columns + columns // 4 + 1
        found += [(2, low, widest), (3, (low + most + 1) // 2, left)]
    return found


@torch.no_grad()
def require_agreement(
    model: nn.Module, call: Callable[[Tensor], Tensor], *, sizes: Sizes, meta: Mapping[str, Any], what: str
) -> list[Difference]:
    """Compare ``call`` with ``model``, (B, channels, H, W) -> logits, on random images, case by case.

    Raises:
        InputError: ``model`` does not give one logit for each of the classes in ``meta``.
        DisagreementError: a difference is above TOLERANCE, outputs of either are not finite, or of another shape.
    """
    numbers = torch.Generator().manual_seed(0)
    differences = []
    for batch, rows, columns in cases(sizes, meta["image_size"]):
        case = f"{batch} images of {rows} x {columns}"
        images = torch.randn(batch, meta["channels"], rows, columns, generator=numbers)
        expected = model(images)
        _require_logits(expected, len(meta["classes"]))
        try:
            got = call(images)
        except Exception as error:  # of the runtime's own kind
            raise DisagreementError(f"{what} fails on {case}: {checks.first_line(error)}") from error
        if got.shape != expected.shape:
            raise DisagreementError(f"{what} gives {tuple(got.shape)} for {case}, PyTorch {tuple(expected.shape)}")
        for whose, outputs in (("PyTorch", expected), (what, got)):  # inf is within any tolerance of inf
            if not outputs.isfinite().all():
                raise DisagreementError(
                    f"{what} cannot be compared with PyTorch: outputs of {whose} are not finite for {case}"
                )
        difference = Difference(batch, rows, columns, (got - expected).abs().max().item(), expected.abs().max().item())
        if not difference.largest <= TOLERANCE * difference.scale:
            raise DisagreementError(f"{what} differs from PyTorch by {difference}")
        differences.append(difference)
    return differences


def _require_logits(found: object, classes: int) -> None:
    if isinstance(found, Tensor) and found.ndim in (2, 4) and found.shape[1] == classes:
        return
    got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
    raise checks.InputError(
        f"the network must give one tensor, (B, {classes}) or (B, {classes}, rows, columns), for the {classes} classes "
        f"in meta, got {got}"
    )


Model = TypeVar("Model", bound=nn.Module)


def folded(model: Model) -> Model:
    """Return a copy of ``model`` in eval mode in which parametrizations, such as spectral norm, have become weights.

    ``model`` stays as it is: eval mode does not advance a power iteration, and only the copy is changed.
    """
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if not parametrize.is_parametrized(module):
            continue
        # Not remove_parametrizations: the copy shares its class with the original, which would be stripped, too.
        chains = module.parametrizations
        assert isinstance(chains, nn.ModuleDict)
        weights = {name: getattr(module, name).detach().clone() for name in chains}
        plain = parametrize.type_before_parametrizations(module)  # which asks for the chains
        del module.parametrizations
        module.__class__ = plain
        for name, weight in weights.items():
            module.register_parameter(name, nn.Parameter(weight))
    return model


@dataclass(frozen=True)
class Written:
    """A file that an export has kept.

    Args:
        path: of the file.
        sizes: of the images that it takes.
        differences: from PyTorch, case by case.
        notes: more facts, a clause each.
    """

    path: Path
    sizes: Sizes
    differences: list[Difference] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def largest(self) -> Difference:
        """The largest difference relative to its outputs."""
        return max(self.differences, key=lambda d: d.largest / (d.scale or 1.0))


def described(
    model: nn.Module,
    meta: Mapping[str, Any] | None,
    provenance: Mapping[str, Any] | None,
    image_size: int | tuple[int, int] | None,
) -> dict[str, Any]:
    """Return the config of ``model``, with ``image_size`` as the size of prepared images if it is given.

    Args:
        model: any network; those of `attnconv.models` describe themselves.
        meta, provenance: the network's own if None.
    Raises:
        InputError: meta does not say how images are prepared, or the position tables do not cover the size.
    """
    meta = checked_meta(getattr(model, "meta", None) if meta is None else meta)
    given = getattr(model, "provenance", None) if provenance is None else provenance
    provenance = None if given is None else checks.plain("provenance", given)
    if image_size is not None:
        size = list(checks.rows_columns("image_size", image_size))
        meta = checked_meta({**meta, "image_size": size})
        if provenance is not None:  # whose scores are those of another size
            config = {**provenance.get("config", {}), "image_size": size if len(set(size)) > 1 else size[0]}
            provenance = {**provenance, "config": config, "scores": None}
    require_covered(model, meta["channels"], meta["image_size"])
    if getattr(model, "blueprint", None) is not None:
        return {**describe(model), "meta": meta, "provenance": provenance}
    return config_of(
        model=None,
        num_classes=len(meta["classes"]),
        in_channels=meta["channels"],
        image_size=meta["image_size"],
        options={},
        attention=[],
        meta=meta,
        provenance=provenance,
    )


def write_checked(
    model: nn.Module,
    path: Path,
    config: Mapping[str, Any],
    *,
    what: str,
    write: Callable[[BinaryIO, ExportedProgram, str], tuple[str, ...]],
    caller: Callable[[Path], Callable[[Tensor], Tensor]],
    tell: Callable[[str], object] | None,
) -> Written:
    """Capture ``model``, write it to ``path`` and keep the file if it answers as PyTorch does.

    Rows and columns stay free where torch can keep them free; else the file is for one size.

    Args:
        model: (B, C, H, W) -> logits, on the CPU; it is left as it is.
        config: of `described`.
        what: the file, in messages.
        write: writes a program, with the config's text, into a file; returns notes.
        caller: reads a file and returns its network.
        tell: called with the name of each stage as it begins.
    Raises:
        InputError: a layer asks for a kernel that cannot be exported.
        DisagreementError: the answers differ even with one size.
    """
    require_exportable(model)
    tell = tell or (lambda _: None)
    meta, model = config["meta"], folded(model).requires_grad_(False)
    rows, columns = meta["image_size"]
    wanted, notes = sizes_of(model, meta["channels"], (rows, columns)), ()
    with replacing(path) as file:  # which fails, if it must, before minutes of work
        while True:
            try:
                tell(f"capturing the network for {wanted}")
                program = captured(model, meta, wanted)
                sizes = captured_sizes(program, wanted)
                tell(f"writing {what}")
                file.seek(0)
                file.truncate()
                written = write(file, program, config_text(dict(config), sizes))  # pyright: ignore[reportArgumentType]
                file.flush()
                tell(f"comparing {what} with PyTorch, {len(cases(sizes, (rows, columns)))} batches")
                call = caller(Path(file.name))
                found = require_agreement(model, call, sizes=sizes, meta=meta, what=what)
                return Written(path, sizes, found, (*written, *notes))
            # For a size that cannot be free torch raises RuntimeErrors; a disagreement is one, too.
            except RuntimeError as error:
                if not wanted.dynamic:
                    raise
                notes = (f"the image size is fixed; with free rows and columns: {checks.first_line(error)}",)
                wanted = Sizes((rows, rows), (columns, columns))


def require_exportable(model: nn.Module) -> None:
    """Raise InputError, naming the layer and the remedy, if a layer asks for a kernel that cannot be exported."""
    for name, layer in model.named_modules():
        if (impl := getattr(layer, "impl", "auto")) in FUSED:
            raise checks.InputError(
                f"layer {name!r} has impl={impl!r}, which cannot be exported: it is an operator of this library; set "
                "its impl to 'auto', or to 'eager' or 'sdpa'"
            )


def dims(sizes: Sizes) -> dict[int, Any]:
    """Return the free axes of (B, C, H, W) for torch, which fixes those that the network ties to a number."""
    found: dict[int, Any] = {0: Dim.AUTO(min=1)}
    if sizes.dynamic:
        found |= {i: Dim.AUTO(min=low, max=high) for i, (low, high) in enumerate((sizes.rows, sizes.columns), start=2)}
    return found


def captured(model: nn.Module, meta: Mapping[str, Any], sizes: Sizes) -> ExportedProgram:
    """Return the program of ``model``, its batch and ``sizes`` free. The network runs once, nothing is compiled."""
    images = torch.zeros(2, meta["channels"], *meta["image_size"])  # one image would be taken for a constant
    # Private, but the only way: otherwise a free size is taken to be at least 2, on every map in the network.
    with torch.fx.experimental._config.patch(backed_size_oblivious=True), warnings.catch_warnings():  # type: ignore[attr-defined]
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (images,), dynamic_shapes=(dims(sizes),))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of files in this machine's folders
    return program


def captured_sizes(program: ExportedProgram, asked: Sizes) -> Sizes:
    """Return the image sizes of ``program``, which may be fewer than those ``asked`` for.

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
