"""Networks by name: `create_model` makes one of ours, the user's or another library's.

`attnconv.networks` has the table of ours. A builder takes a `Task` and, by keyword, the integers in the name and all
options. A parameter annotated with a dataclass takes the options that are its fields.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_args, overload

from torch import nn

from attnconv import checks, extensions, networks
from attnconv.layers import draws
from attnconv.models import init_from as first_weights
from attnconv.models.init_from import Source, Transfer
from attnconv.models.sources import NetworkSource, of_library, source_of
from attnconv.networks import CIFAR100, GROUP, IMAGENET, Images, list_models
from attnconv.surgery.network import note_paths
from attnconv.surgery.steps import Step, apply_steps, checked_steps

if TYPE_CHECKING:
    from attnconv.models.network import HubNetwork

__all__ = ["CIFAR100", "IMAGENET", "Images", "list_models"]

Side = int | tuple[int, int]  # side of images, or rows and columns, in pixels


@dataclass(frozen=True)
class Task:
    """Number of outputs, image channels, and rows and columns of the largest images in pixels."""

    num_classes: int
    in_channels: int
    image_size: tuple[int, int]


@dataclass(frozen=True)
class Blueprint(Task):
    """The arguments of `create_model` that made a network; ``options`` include defaults."""

    name: str
    options: dict[str, Any]
    attention: list[Step] = field(default_factory=list)


def register_model(
    name: str, build: Callable[..., nn.Module], *, num_classes: int = 1000, image_size: int = 224, dense: bool = False
) -> None:
    """Register a network under ``name`` for `create_model`, the command line, configurations and plans.

    Args:
        name: letters, digits and ``._-``.
        build: called with num_classes, with in_channels and image_size (rows, columns) if its signature has them, and
            with options for its other parameters.
        num_classes: default number of outputs.
        image_size: default side of the images in pixels.
        dense: True if it returns logits (B, num_classes, rows, columns).
    Raises:
        InputError: the name is taken, or ``build`` does not take num_classes.
    """
    old = networks.REGISTERED[name].build if name in networks.REGISTERED else None
    extensions.require_free("a network", name, build, old, taken=networks.own(str(name)) is not None)
    images = Images(
        checks.integer("num_classes", num_classes, at_least=1), checks.integer("image_size", image_size, at_least=1)
    )
    networks.REGISTERED[name] = source_of(name, build, images=images, dense=dense)


def is_users(name: str) -> bool:
    """True if the user registered the network: it is not ours or an installed package's."""
    return name in networks.REGISTERED and name not in extensions.offered(GROUP)


@overload
def create_model(
    name: str | Callable[..., nn.Module],
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    image_size: Side | None = None,
    attention: Sequence[Step] = (),
    init_from: None = None,
    **options: Any,
) -> "HubNetwork": ...


@overload
def create_model(
    name: str | Callable[..., nn.Module], *, init_from: Source, **settings: Any
) -> "tuple[HubNetwork, Transfer]": ...


def create_model(
    name: str | Callable[..., nn.Module],
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    image_size: Side | None = None,
    attention: Sequence[Step] = (),
    init_from: Source | None = None,
    **options: Any,
) -> Any:
    """Make a network: (B, in_channels, rows, columns) -> logits (B, num_classes), or a map of logits if it is dense.

    For one seed (`torch.manual_seed`), our networks with attention or squeeze-excitation start from the weights of the
    plain network of their family. The weights of attention itself depend on the seed and on the layer's name only.

    Args:
        name: a name of `list_models` or its family; timm:NAME or torchvision:NAME; package.module:function, which is
            imported; or such a function, called as `register_model` describes.
        num_classes: number of outputs; if None, that of the publication: 100 for convnet3 and Wide-ResNets, 10 for
            XResNets, 2 for U-Nets, timm's own for timm:NAME, else 1000.
        in_channels: image channels.
        image_size: side, or rows and columns, of the largest images in pixels, which the position tables cover; if
            None, that of the publication: 32 for convnet3 and Wide-ResNets, 128 for XResNets, 64 for U-Nets, timm's own
            for timm:NAME, else 224.
        attention: steps of `attnconv.surgery.apply_steps` to apply to the network.
        init_from: trained weights of this network or of the plain one: "torchvision", "timm", a file, or a state dict.
            The result is then (network, `Transfer`).
        options: options of the network, documented by its builder.
    Raises:
        ValueError: an unknown name or option (the nearest is named), values that do not match, a step that matches
            nothing, or weights that cannot be read or do not fit.
    """
    if callable(name):
        name = extensions.remember_factory(name)
    elif extensions.is_factory(name):
        extensions.import_factory(name)
    model, transfer = build_model(
        name,
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        attention=attention,
        init_from=init_from,
        options=options,
    )
    return model if transfer is None else (model, transfer)


def build_model(
    name: str,
    *,
    num_classes: int | None,
    in_channels: int,
    image_size: int | Sequence[int] | None,
    attention: Sequence[Step],
    options: Mapping[str, Any],
    init_from: Source | None = None,
) -> tuple[nn.Module, Transfer | None]:
    """Make a network as `create_model`, without importing what ``name`` names: for names from files."""
    source = find(name)
    source.check_options(options)
    steps = checked_steps(attention)
    usual = source.images
    size = checks.rows_columns("image_size", usual.image_size if image_size is None else image_size)
    task = Task(
        checks.integer("num_classes", usual.num_classes if num_classes is None else num_classes, at_least=1),
        checks.integer("in_channels", in_channels, at_least=1),
        size,
    )
    state = draws.generator_state()
    if source.plain is None:
        model = source.make(**vars(task), **options)
    else:
        with draws.generators_kept():
            model = source.make(**vars(task), **options)
        if first_weights.has_memory(model):
            twin = find(source.plain)
            shared = {key: value for key, value in options.items() if key in twin.options}
            first_weights.share_draws(model, name, lambda: twin.make(**vars(task), **shared))  # pyright: ignore[reportArgumentType]
    given = None if init_from is None else first_weights.given_weights(init_from, name)
    transfer = None
    if given is not None and (not steps or first_weights.has_names_of(model, given)):
        transfer = first_weights.initialise(model, name, given)
    note_paths(model, model.modules() if source.own else (), size)
    if steps:
        with draws.from_state(state):
            model, _ = apply_steps(model, steps, image_size=size, inplace=True)
        transfer = transfer and first_weights.after_surgery(transfer, model)
    if given is not None and transfer is None:
        transfer = first_weights.initialise(model, name, given)
    blueprint = Blueprint(**vars(task), name=str(name), options={**source.options, **options}, attention=steps)
    model.blueprint = blueprint  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    return model, transfer


def _call_builder(family: networks.Family, numbers: Mapping[str, int], **given: Any) -> nn.Module:
    """Call the builder of ``family``; an argument that is a dataclass takes its fields from the options."""
    file, _, function = family.builder.partition(":")
    build = getattr(import_module(f"attnconv.models.{file}"), function)
    task = Task(**{f.name: given.pop(f.name) for f in dataclasses.fields(Task)})
    arguments = {**numbers, **family.fixed, **family.options, **given}
    for key, parameter in list(inspect.signature(build).parameters.items())[1:]:  # after the task
        for kind in (parameter.annotation, *get_args(parameter.annotation)):
            names = [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
            if names and names[0] in arguments:
                arguments[key] = kind(**{name: arguments.pop(name) for name in names})  # pyright: ignore[reportCallIssue]
    return build(task, **arguments)


def find(name: str) -> NetworkSource:
    """Return the source of a network: ours, registered, a library's, or a factory that was imported before.

    Raises:
        InputError: unknown name (the nearest is named).
    """
    name = str(name)
    if (found := networks.find(name)) is not None:
        family, numbers = found
        build = functools.partial(_call_builder, family, numbers)
        plain = family.plain and family.plain.format(**numbers)
        return NetworkSource(
            name, build, options=family.options, own=True, images=family.images, dense=family.dense, plain=plain
        )
    if name not in networks.REGISTERED and (build := extensions.load_offered(GROUP, name)) is not None:
        register_model(name, build)
    if name in networks.REGISTERED:
        return networks.REGISTERED[name]
    return of_library(name) or source_of(name, extensions.factory(name))
