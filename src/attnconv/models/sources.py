"""Sources of networks: a builder of ours or of the user's, timm, torchvision.

A `NetworkSource` says which arguments are passed to the factory of a name. Names in files lead to no import but that of
what an installed package offers under the entry points, and that of timm and torchvision themselves, whose own lists
the names must be in, and to no download.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from attnconv import checks
from attnconv.extensions import LIBRARIES
from attnconv.networks import IMAGENET, Images

COMMON = ("num_classes", "in_channels", "image_size")


@dataclass(frozen=True)
class NetworkSource:
    """The factory of the networks of one name.

    Args:
        name: of `create_model`.
        build: takes by keyword those of COMMON that ``takes`` holds, and options.
        takes: in_channels and image_size may be missing in it: such networks are of three channels, of any size.
        options: its own options and their defaults.
        others: it may take options that are not listed, too.
        refused: options that it has and that would open files or download.
        images: the task where none is given.
        dense: it gives each pixel a class; None: not known before it runs.
        plain: name of the same network without attention, whose first weights it shares.
        own: the builder is of this library, and says itself what is wrong.
    """

    name: str
    build: Callable[..., nn.Module]
    takes: frozenset[str] = frozenset(COMMON)
    options: Mapping[str, Any] = field(default_factory=dict)
    others: bool = False
    refused: frozenset[str] = frozenset()
    images: Images = IMAGENET
    dense: bool | None = None
    plain: str | None = None
    own: bool = False

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise InputError unless all are names of the network's own options."""
        for name in options:
            if name in self.refused or (self.others and name in COMMON):
                raise checks.InputError(f"{name} is no option of {self.name}: it is set by attnconv")
            if not self.others:
                checks.one_of(f"option of {self.name}:", name, self.options)

    def make(self, *, num_classes: int, in_channels: int, image_size: tuple[int, int], **options: Any) -> nn.Module:
        """Return a new network.

        Raises:
            InputError: the builder fails, makes no module, or knows three channels only and is asked for others.
        """
        if "in_channels" not in self.takes and in_channels != 3:
            raise checks.InputError(f"{self.name} takes images of 3 channels only, got in_channels={in_channels}")
        common = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
        arguments = {name: value for name, value in common.items() if name in self.takes} | options
        if self.own:
            return self.build(**arguments)
        try:
            model = self.build(**arguments)
        except checks.InputError:
            raise
        except Exception as error:  # of somebody's own code
            reason = f"{type(error).__name__}: {checks.first_line(error)}"
            raise checks.InputError(f"{self.name} cannot be made: {reason}") from error
        if not isinstance(model, nn.Module):
            raise checks.InputTypeError(f"{self.name} makes a {type(model).__name__}, not an nn.Module")
        return model


def source_of(
    name: str, build: Callable[..., nn.Module], *, images: Images = IMAGENET, dense: bool | None = None
) -> NetworkSource:
    """Return the source of what ``build`` makes, called as its signature says.

    Raises:
        InputError: it is not callable, or not with ``num_classes``, or is a network itself.
    """
    if isinstance(build, nn.Module):
        raise checks.InputTypeError(f"the builder of {name!r} is a module, not a function that makes one")
    if not callable(build):
        raise checks.InputTypeError(f"the builder of {name!r} must be a function, got {type(build).__name__}")
    try:
        parameters = inspect.signature(build).parameters
    except (TypeError, ValueError) as error:  # of a built-in
        raise checks.InputError(f"the builder of {name!r} has no signature: {error}") from None
    others = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {key: p for key, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if "num_classes" in parameters and "num_classes" not in named:
        raise checks.InputError(f"the builder of {name!r} must take num_classes by name, not by position alone")
    if "num_classes" not in named and not others:
        raise checks.InputError(
            f"the builder of {name!r} must take num_classes, it takes {', '.join(parameters) or 'nothing'}"
        )
    options = {key: p.default for key, p in named.items() if key not in COMMON}
    takes = {key for key in COMMON if key in named} | {"num_classes"}
    return NetworkSource(name, build, frozenset(takes), options, others, images=images, dense=dense)


def of_library(name: str) -> NetworkSource | None:
    """Return the source of timm:NAME or torchvision:NAME; None of another name.

    Raises:
        InputError: the library has no such network (the nearest is named), or is not installed.
    """
    library, colon, network = name.partition(":")
    if not colon or library not in LIBRARIES:
        return None
    return (_of_timm if library == "timm" else _of_torchvision)(name, network)


def _of_timm(name: str, network: str) -> NetworkSource:
    timm = checks.require("timm", extra="timm")
    checks.one_of("network of timm:", network.partition(".")[0], timm.list_models())
    loading = frozenset(inspect.signature(timm.create_model).parameters) | {"num_classes", "in_chans", "img_size"}
    published = timm.get_pretrained_cfg(network)
    images = Images(published.num_classes, published.input_size[1]) if published else IMAGENET
    fixed = bool(getattr(published, "fixed_input_size", False))

    def build(*, num_classes: int, in_channels: int, image_size: tuple[int, int], **options: Any) -> nn.Module:
        size = {"img_size": image_size} if fixed else {}
        return timm.create_model(network, num_classes=num_classes, in_chans=in_channels, **size, **options)

    return NetworkSource(name, build, others=True, refused=loading, images=images)


def _of_torchvision(name: str, network: str) -> NetworkSource:
    models = checks.require("torchvision", extra="train").models
    checks.one_of("network of torchvision:", network, models.list_models(module=models))
    # Of these two the auxiliary classifiers make a tuple of the output, and a default that warns takes minutes.
    fixed = {"aux_logits": False, "init_weights": True} if network in ("googlenet", "inception_v3") else {}
    sized = network.startswith("vit_")

    def build(*, num_classes: int, image_size: tuple[int, int], **options: Any) -> nn.Module:
        if sized:
            options["image_size"] = max(image_size)
        return models.get_model(network, weights=None, num_classes=num_classes, **fixed, **options)

    refused = frozenset({"weights", "progress", "weights_backbone", *fixed})
    return NetworkSource(name, build, frozenset({"num_classes", "image_size"}), others=True, refused=refused)
