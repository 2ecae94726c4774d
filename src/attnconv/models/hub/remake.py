"""A network made again from its blueprint, and the blueprint of a network as it now is."""

from dataclasses import replace

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from attnconv import checks
from attnconv.layers.augmented_conv import AugmentedConvNd
from attnconv.models.fold import folded
from attnconv.models.hub.blueprint import Blueprint
from attnconv.models.hub.methods import HubNetwork
from attnconv.models.registry import check_options, create_model
from attnconv.weights import Shapes, shapes_of


def make(blueprint: Blueprint) -> HubNetwork:
    """The network of ``blueprint``, newly drawn; InputError as `create_model`, and if a resized layer is not there."""
    # Of its architecture alone: create_model would open, or download, what one called init_from names.
    check_options(blueprint.name, blueprint.options)
    model = create_model(
        blueprint.name,
        num_classes=1 if blueprint.num_classes == 0 else blueprint.num_classes,
        in_channels=blueprint.in_channels,
        image_size=blueprint.image_size,
        **blueprint.options,
    )
    if blueprint.num_classes == 0 or blueprint.global_pool != "avg":
        reset = getattr(model, "reset_classifier", None)
        if reset is None:
            raise checks.InputError(f"{blueprint.name} has no classifier to leave out: num_classes must be at least 1")
        reset(blueprint.num_classes, blueprint.global_pool)
    layers = _with_tables(model)
    for name, size in (blueprint.feat_sizes or {}).items():
        layers[checks.one_of(f"layer in feat_sizes of {blueprint.name}:", name, layers)].resize_feat_size(size)
    model.blueprint = replace(blueprint, folded=blueprint.folded and any(map(is_parametrized, model.modules())))
    return folded(model) if model.blueprint.folded else model


def current(model: HubNetwork) -> Blueprint:
    """The blueprint of ``model`` as it now is: its classifier may be another one, its tables resized."""
    if model.blueprint is None:
        raise checks.InputError(f"this {type(model).__name__} was not made by create_model, and cannot say how to be")
    blueprint = replace(
        model.blueprint,
        num_classes=getattr(model, "num_classes", model.blueprint.num_classes),
        global_pool=getattr(model, "global_pool", "avg"),
        feat_sizes=None,
    )
    return with_tables_of(model, blueprint)


def with_tables_of(model: nn.Module, blueprint: Blueprint) -> Blueprint:
    """``blueprint``, which has no feat_sizes, with those of ``model`` that are not what it makes."""
    with torch.device("meta"):
        plain = _with_tables(make(blueprint))
    sizes = {name: layer.feat_size for name, layer in _with_tables(model).items() if layer.feat_size is not None}
    resized = {name: size for name, size in sizes.items() if name in plain and plain[name].feat_size != size}
    return replace(blueprint, feat_sizes=resized or None)


def wanted_shapes(blueprint: Blueprint) -> Shapes:
    """Return the shapes of the weights and buffers, found without memory for them; InputError as `make`."""
    with torch.device("meta"):
        return shapes_of(make(blueprint).state_dict())


def _with_tables(model: nn.Module) -> dict[str, AugmentedConvNd]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, AugmentedConvNd) and module.position == "relative"
    }
