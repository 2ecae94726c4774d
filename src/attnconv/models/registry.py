"""Every network under its name.

A builder is called with a `Task` and, by keyword, the integers in the network's name and its own options. An option
whose default is a dataclass stands for the fields of that dataclass: networks share options so without passing on each
of them.
"""

import dataclasses
import fnmatch
import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, overload

from attnconv import checks
from attnconv.models.init_from import Source, Transfer, generators_kept, has_memory, initialise, share_draws

if TYPE_CHECKING:
    from attnconv.models.network import HubNetwork

Builder = Callable[..., "HubNetwork"]
AnyBuilder = TypeVar("AnyBuilder", bound=Builder)

DIGITS = 9  # of an integer in a name; Python reads at most a few thousand
Side = int | tuple[int, int]  # of images, or rows and columns, in pixels


@dataclass(frozen=True)
class Images:
    """The images that a network is usually for: so many classes, that side in pixels."""

    num_classes: int
    image_size: int


CIFAR100, IMAGENET = Images(100, 32), Images(1000, 224)


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


@dataclass(frozen=True)
class _Family:
    """One builder, every name that it answers to, and what else `register` is told."""

    build: Builder
    pattern: re.Pattern[str]
    listed: tuple[str, ...]
    images: Images
    dense: bool
    plain: str | None = None


_FAMILIES: list[_Family] = []


def register(
    pattern: str, listed: tuple[str, ...] = (), *, images: Images, dense: bool = False, plain: str | None = None
) -> Callable[[AnyBuilder], AnyBuilder]:
    """Decorator: ``build`` makes every network whose whole name matches.

    Args:
        pattern: a regular expression; its named groups match integers, which ``build`` takes under these names.
        listed: the names that `list_models` shows; the pattern, a name itself, if none are given.
        images: what they were published for, or are tried on if for nothing.
        dense: whether they give logits (B, num_classes, rows, columns).
        plain: the same network without attention, a name with the pattern's groups in braces, whose first weights
            they share.
    """
    compiled, listed = re.compile(pattern), listed or (pattern,)
    for name in listed:
        assert compiled.fullmatch(name), (pattern, name)
        assert not any(family.pattern.fullmatch(name) for family in _FAMILIES), name

    def add(build: AnyBuilder) -> AnyBuilder:
        _FAMILIES.append(_Family(build, compiled, listed, images, dense, plain))
        return build

    return add


def list_models(pattern: str = "*", *, dense: bool = False) -> list[str]:
    """Return names that match a shell pattern, sorted; a family such as wide_resnet{depth}_{k} has more than these.

    Those of networks with a class an image or, if ``dense``, those of networks with a class a pixel.
    """
    listed = (family.listed for family in _FAMILIES if family.dense == dense)
    return sorted(name for names in listed for name in fnmatch.filter(names, pattern))


@overload
def create_model(
    name: str, *, num_classes: int, in_channels: int = 3, image_size: Side, init_from: None = None, **options: Any
) -> "HubNetwork": ...


@overload
def create_model(
    name: str, *, num_classes: int, in_channels: int = 3, image_size: Side, init_from: Source, **options: Any
) -> "tuple[HubNetwork, Transfer]": ...


def create_model(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    image_size: Side,
    init_from: Source | None = None,
    **options: Any,
) -> "HubNetwork | tuple[HubNetwork, Transfer]":
    """A new network: (B, in_channels, rows, columns) -> logits (B, num_classes), of dense ones a map of them.

    At one state of torch's generators (after `torch.manual_seed`, say) a network with attention or squeeze-excitation
    has the first weights of the plain network of its family, which is made for a moment beside it; attention's own
    depend on that state and on the layer's name alone.

    Args:
        name: one of `list_models`, dense or not, or another of its family.
        num_classes: outputs.
        in_channels: image channels.
        image_size: side, or rows and columns, of the largest images in pixels; position tables are sized by it.
        init_from: trained weights to start from, of the plain network of the same family: "torchvision", a file, or
            a state dict. The result is then (network, `Transfer`).
        options: the network's own, as its builder documents them.
    Raises:
        ValueError: an unknown name or option (the nearest is named), values that do not fit each other, or weights
            that cannot be read or fit nowhere.
    """
    family, numbers = _find(name)
    check_options(name, options)
    rows, columns = checks.per_axis("image_size", image_size, 2, at_least=1)
    task = Task(
        checks.integer("num_classes", num_classes, at_least=1),
        checks.integer("in_channels", in_channels, at_least=1),
        (rows, columns),
    )
    model = _build(family, numbers, task, options)
    model.blueprint = Blueprint(**vars(task), name=str(name), options={**model_options(name), **options})
    return model if init_from is None else (model, initialise(model, name, init_from))


def _build(family: _Family, numbers: dict[str, int], task: Task, options: dict[str, Any]) -> "HubNetwork":
    arguments = {**numbers, **options}
    for key, default in _defaults(family.build).items():
        if dataclasses.is_dataclass(default) and not isinstance(default, type):
            names = arguments.keys() & vars(default).keys()
            arguments[key] = dataclasses.replace(default, **{name: arguments.pop(name) for name in names})
    if family.plain is None:
        return family.build(task, **arguments)
    with generators_kept():
        model = family.build(task, **arguments)
    if has_memory(model):
        name = family.plain.format(**numbers)
        plain = model_options(name)
        shared = {key: value for key, value in options.items() if key in plain}
        share_draws(model, name, lambda: create_model(name, **vars(task), **shared))
    return model


def check_options(name: str, options: Iterable[str]) -> None:
    """Raise unless all are names of the network's own options."""
    for option in options:
        checks.one_of(f"option of {name}:", option, model_options(name))


def model_options(name: str) -> dict[str, Any]:
    """Return the network's own options and their defaults."""
    family, numbers = _find(name)
    options: dict[str, Any] = {}
    for key, default in _defaults(family.build).items():
        if key not in numbers:
            options |= vars(default) if dataclasses.is_dataclass(default) else {key: default}
    return options


def _defaults(build: Builder) -> dict[str, Any]:
    parameters = list(inspect.signature(build).parameters.items())
    return {key: parameter.default for key, parameter in parameters[1:]}  # but for the task


def is_dense(name: str) -> bool:
    """True if the network gives each pixel a class."""
    return _find(name)[0].dense


def usual_images(name: str) -> Images:
    """Return what the network was published for, or is tried on: the default where a task is not given."""
    return _find(name)[0].images


def _find(name: str) -> tuple[_Family, dict[str, int]]:
    """Return the family of ``name`` and the integers in it."""
    for family in _FAMILIES:
        if match := family.pattern.fullmatch(str(name)):
            if len(longest := max(match.groups(), key=len, default="")) > DIGITS:
                raise checks.InputError(
                    f"integers in a network's name have at most {DIGITS} digits, got {len(longest)}"
                )
            return family, {key: int(digits) for key, digits in match.groupdict().items()}
    known = [*list_models(), *list_models(dense=True)]
    raise checks.InputError(f"unknown model {name!r}; {checks.nearest(name, known)}")
