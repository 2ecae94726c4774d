"""Sources of networks: our builders, the user's, timm, torchvision.

A name in a file imports nothing except what an installed package offers as an entry point, and timm and torchvision for
the names in their own lists. It downloads nothing.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from attnconv import checks, extensions
from attnconv.networks import IMAGENET, Images

COMMON = ("num_classes", "in_channels", "image_size")


@dataclass(frozen=True)
class NetworkSource:
    """The factory of a named network.

    Args:
        name: name of `create_model`.
        build: takes the arguments ``takes`` and the options by keyword.
        takes: arguments among COMMON; without in_channels the network takes three channels.
        options: options with defaults.
        others: True if it may take other options too.
        refused: options that would open files or download.
        images: default number of classes and image size.
        dense: True if it classifies each pixel; None: unknown before it runs.
        plain: name of the same network without attention, whose first weights it shares.
        own: True for a builder of this library, whose errors are clear.
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
        """Raise InputError unless the network has all ``options``."""
        for name in options:
            if name in self.refused or (self.others and name in COMMON):
                raise checks.InputError(f"{name} is not an option of {self.name}: attnconv sets it")
            if not self.others:
                checks.one_of(f"option of {self.name}:", name, self.options)

    def make(self, *, num_classes: int, in_channels: int, image_size: tuple[int, int], **options: Any) -> nn.Module:
        """Return a new network.

        Raises:
            InputError: the builder fails, does not make a module, or supports three channels only.
        """
        if "in_channels" not in self.takes and in_channels != 3:
            raise checks.InputError(f"{self.name} takes images of 3 channels only, got in_channels={in_channels}")
        common = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
        arguments = {name: value for name, value in common.items() if name in self.takes} | options
        if self.own:
            return self.build(**arguments)
        with extensions.user_code(f"{self.name} cannot be made"):
            model = self.build(**arguments)
        if not isinstance(model, nn.Module):
            raise checks.InputTypeError(f"{self.name} makes a {type(model).__name__}, not an nn.Module")
        return model


def source_of(
    name: str, build: Callable[..., nn.Module], *, images: Images = IMAGENET, dense: bool | None = None
) -> NetworkSource:
    """Return the source of the networks that ``build`` makes, called according to its signature.

    Raises:
        InputError: ``build`` is not callable, does not take ``num_classes``, or is itself a network.
    """
    if isinstance(build, nn.Module):
        raise checks.InputTypeError(f"the builder of {name!r} is a module, not a function that makes one")
    if not callable(build):
        raise checks.InputTypeError(f"the builder of {name!r} must be a function, got {type(build).__name__}")
    with checks.explained(f"the builder of {name!r} has no signature", TypeError, ValueError):  # a built-in
        parameters = inspect.signature(build).parameters
    others = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {key: p for key, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if "num_classes" in parameters and "num_classes" not in named:
        raise checks.InputError(f"the builder of {name!r} must take num_classes by name, not by position alone")
    if "num_classes" not in named and not others:
        raise checks.InputError(
            f"the builder of {name!r} must take num_classes, it takes {', '.join(parameters) or 'nothing'}; a "
            "function around it can"
        )
    options = {key: p.default for key, p in named.items() if key not in COMMON}
    takes = {key for key in COMMON if key in named} | {"num_classes"}
    return NetworkSource(name, build, frozenset(takes), options, others, images=images, dense=dense)


def of_library(name: str) -> NetworkSource | None:
    """Return the source of timm:NAME or torchvision:NAME; None for other names.

    Raises:
        InputError: the library has no such network (the nearest is named), or is not installed.
    """
    library, colon, network = name.partition(":")
    if not colon or library not in extensions.LIBRARIES:
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
    # The auxiliary classifiers of these two would make the output a tuple; their default init warns and takes minutes.
    fixed = {"aux_logits": False, "init_weights": True} if network in ("googlenet", "inception_v3") else {}
    sized = network.startswith("vit_")

    def build(*, num_classes: int, image_size: tuple[int, int], **options: Any) -> nn.Module:
        if sized:
            options["image_size"] = max(image_size)
        return models.get_model(network, weights=None, num_classes=num_classes, **fixed, **options)

    refused = frozenset({"weights", "progress", "weights_backbone", *fixed})
    return NetworkSource(name, build, frozenset({"num_classes", "image_size"}), others=True, refused=refused)
