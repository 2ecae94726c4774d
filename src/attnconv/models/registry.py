"""Every network under its name: `create_model` makes one, wherever it comes from.

The table of ours is `attnconv.networks`. A builder takes a `Task` and, by keyword, the integers in the name and all
options. A parameter annotated with a dataclass takes the options that are its fields.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, overload

from torch import nn

from attnconv import checks, extensions, networks
from attnconv.models.init_from import (
    Source,
    Transfer,
    after_surgery,
    generators_kept,
    given_weights,
    has_memory,
    initialise,
    share_draws,
)
from attnconv.models.sources import NetworkSource, of_library, source_of
from attnconv.networks import CIFAR100, GROUP, IMAGENET, Images, list_models
from attnconv.surgery.network import note_paths
from attnconv.surgery.steps import Step, apply_steps, checked_steps

if TYPE_CHECKING:
    from attnconv.models.network import HubNetwork

__all__ = ["CIFAR100", "IMAGENET", "Images", "list_models"]

Side = int | tuple[int, int]  # of images, or rows and columns, in pixels


@dataclass(frozen=True)
class Task:
    """Outputs, image channels, and rows and columns of the largest images in pixels."""

    num_classes: int
    in_channels: int
    image_size: tuple[int, int]


@dataclass(frozen=True)
class Blueprint(Task):
    """The arguments of `create_model` that made a network; ``options`` left at their defaults, too."""

    name: str
    options: dict[str, Any]
    attention: list[Step] = field(default_factory=list)


def register_model(
    name: str,
    build: Callable[..., nn.Module],
    *,
    num_classes: int = 1000,
    image_size: int = 224,
    dense: bool = False,
) -> None:
    """Let ``name`` be a network in `create_model`, on the command line, in configurations and in plans.

    Args:
        name: of letters, digits and ``._-``.
        build: called with num_classes, with in_channels and image_size (rows, columns) where its signature has them,
            and with what is left of it as options.
        num_classes: outputs where a task is not given.
        image_size: side of the images in pixels, likewise.
        dense: it gives logits (B, num_classes, rows, columns).
    Raises:
        InputError: the name is taken by another network, or ``build`` takes no num_classes.
    """
    old = networks.REGISTERED[name].build if name in networks.REGISTERED else None
    extensions.require_free("a network", name, build, old, taken=networks.own(str(name)) is not None)
    images = Images(
        checks.integer("num_classes", num_classes, at_least=1), checks.integer("image_size", image_size, at_least=1)
    )
    networks.REGISTERED[name] = source_of(name, build, images=images, dense=dense)


def is_users(name: str) -> bool:
    """True if a module of the user's own registers that network: it is not ours, or an installed package's."""
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
    """A new network: (B, in_channels, rows, columns) -> logits (B, num_classes), of dense ones a map of them.

    At one state of torch's generators (after `torch.manual_seed`, say) a network of ours with attention or
    squeeze-excitation has the first weights of the plain network of its family, which is made for a moment beside it;
    attention's own depend on that state and on the layer's name alone.

    Args:
        name: one of `list_models`, dense or not, or another of its family; timm:NAME or torchvision:NAME;
            package.module:function, which is imported; or such a function itself, called as `register_model` says.
        num_classes: outputs; if None, as many as the network was published with: 100 for the networks of CIFAR-100, 10
            for XResNets, 2 for U-Nets, 1000 for all others.
        in_channels: image channels.
        image_size: side, or rows and columns, of the largest images in pixels, for which position tables are sized; if
            None, the published one: 32, 128 and 64 for those three, 224 for all others.
        attention: steps of surgery, of `attnconv.surgery.apply_steps`, in the network as it comes.
        init_from: trained weights to start from, those of the network without attention or of this very one:
            "torchvision", "timm", a file, or a state dict. The result is then (network, `Transfer`).
        options: the network's own, as its builder documents them.
    Raises:
        ValueError: an unknown name or option (the nearest is named), values that do not fit each other, a step that
            matches nothing, or weights that cannot be read or fit nowhere.
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
    """Do as `create_model`, and import nothing that ``name`` names: for names that were read from a file."""
    source = find(name)
    source.check_options(options)
    steps = checked_steps(attention)
    usual = source.images
    image_size = usual.image_size if image_size is None else image_size
    rows, columns = checks.per_axis("image_size", image_size, 2, at_least=1)
    task = Task(
        checks.integer("num_classes", usual.num_classes if num_classes is None else num_classes, at_least=1),
        checks.integer("in_channels", in_channels, at_least=1),
        (rows, columns),
    )
    if source.plain is None:
        model = source.make(**vars(task), **options)
    else:
        with generators_kept():
            model = source.make(**vars(task), **options)
        if has_memory(model):
            twin = find(source.plain)
            shared = {key: value for key, value in options.items() if key in twin.options}
            share_draws(model, name, lambda: twin.make(**vars(task), **shared))  # pyright: ignore[reportArgumentType]
    given = None if init_from is None else given_weights(init_from, name)
    transfer = None
    if given is not None and (not steps or given.has_names_of(model)):
        transfer = initialise(model, name, given)
    note_paths(model, model.modules() if source.own else (), (rows, columns))
    if steps:
        model, _ = apply_steps(model, steps, image_size=(rows, columns), inplace=True)
        transfer = transfer and after_surgery(transfer, model)
    if given is not None and transfer is None:
        transfer = initialise(model, name, given)
    blueprint = Blueprint(**vars(task), name=str(name), options={**source.options, **options}, attention=steps)
    model.blueprint = blueprint  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    return model, transfer


def _call_builder(
    builder: str,
    numbers: Mapping[str, int],
    defaults: Mapping[str, Any],
    *,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    **options: Any,
) -> nn.Module:
    file, _, function = builder.partition(":")
    build = getattr(import_module(f"attnconv.models.{file}"), function)
    arguments = {**numbers, **defaults, **options}
    for key, parameter in list(inspect.signature(build).parameters.items())[1:]:  # but for the task
        kind: Any = parameter.annotation
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            arguments[key] = kind(**{f.name: arguments.pop(f.name) for f in dataclasses.fields(kind)})
    return build(Task(num_classes, in_channels, image_size), **arguments)


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise unless all are names of the network's own options."""
    find(name).check_options(options)


def model_options(name: str) -> dict[str, Any]:
    """Return the network's own options and their defaults, as far as they are known."""
    return dict(find(name).options)


def is_dense(name: str) -> bool:
    """True if the network gives each pixel a class; False of others' where that is not known."""
    return bool(find(name).dense)


def usual_images(name: str) -> Images:
    """Return what the network was published for, or is tried on: the default where a task is not given."""
    return find(name).images


def find(name: str) -> NetworkSource:
    """Return the source of a network: one of ours, registered, a library's, or of a factory that was imported before.

    Raises:
        InputError: there is none (the nearest is named).
    """
    name = str(name)
    if (found := networks.find(name)) is not None:
        family, numbers = found
        build = functools.partial(_call_builder, family.builder, numbers, family.options)
        plain = family.plain and family.plain.format(**numbers)
        return NetworkSource(
            name, build, options=family.options, own=True, images=family.images, dense=family.dense, plain=plain
        )
    if name not in networks.REGISTERED and (build := extensions.load_offered(GROUP, name)) is not None:
        register_model(name, build)
    if name in networks.REGISTERED:
        return networks.REGISTERED[name]
    if (source := of_library(name)) is not None:
        return source
    return source_of(name, extensions.factory(name))
