"""Our networks in timm's registry: after ``import attnconv.timm``, ``timm.create_model("aa_resnet50")`` makes one.

Each listed name of `attnconv.models` becomes an entrypoint with timm's arguments (num_classes, in_chans, img_size,
drop_rate, drop_path_rate, global_pool, features_only, out_indices, feature_cls), ``init_from`` and the options of the
network. `attnconv.models.network` has the methods that timm calls. Names that timm uses already, those of plain
ResNets, stay timm's; ours have the prefix "attnconv_".
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from attnconv import checks
from attnconv.layers.attention import Attention
from attnconv.models import create_model, list_models
from attnconv.models.init_from import Source
from attnconv.models.network import Network
from attnconv.models.registry import CIFAR100, find

checks.require("timm", extra="timm")
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD  # noqa: E402
from timm.models import (  # noqa: E402
    build_model_with_cfg,
    generate_default_cfgs,
    is_model,
    model_entrypoint,
    register_model,
    register_notrace_module,
)

register_notrace_module(Attention)  # and so every subclass


def _default_cfg(name: str) -> dict[str, Any]:
    images = find(name).images
    return {
        "url": "",
        "num_classes": images.num_classes,
        "input_size": (3, images.image_size, images.image_size),
        "crop_pct": 1.0 if images == CIFAR100 else 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "classifier": "fc",
    }


def _is_timms(name: str) -> bool:
    return is_model(name) and model_entrypoint(name).__module__ != __name__


NAMES = {f"attnconv_{name}" if _is_timms(name) else name: name for name in list_models() if find(name).own}
default_cfgs = generate_default_cfgs({timm_name: _default_cfg(name) for timm_name, name in NAMES.items()})
__all__ = ["NAMES", "default_cfgs"]


def _network(
    *,
    name: str,
    num_classes: int,
    in_chans: int,
    img_size: int | tuple[int, int],
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    global_pool: str = "avg",
    init_from: Source | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> nn.Module:
    """Make a network from timm's arguments; num_classes may be 0."""
    try:
        find(name).check_options(options)
    except checks.InputError as error:  # timm expects a TypeError
        raise checks.InputTypeError(str(error)) from None
    settings: dict[str, Any] = {"in_channels": in_chans, "image_size": img_size, **options}
    if init_from is None:
        model = create_model(name, num_classes=num_classes or 1, **settings)
    else:
        model, transfer = create_model(name, num_classes=num_classes or 1, init_from=init_from, **settings)
        model.transfer = transfer  # type: ignore[assignment]
    assert isinstance(model, Network)
    model.in_chans = in_chans  # type: ignore[assignment]
    model.drop_rate = drop_rate
    model.set_drop_path(drop_path_rate)
    if num_classes == 0 or global_pool != "avg":
        model.reset_classifier(num_classes, global_pool)
    return model.to(device=device, dtype=dtype)


def _shapes(name: str, in_chans: int, size: tuple[int, int], options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Return the sizes for default_cfg, found on the meta device, and the number of stages."""
    with torch.device("meta"), torch.no_grad():
        model = create_model(name, num_classes=1, in_channels=in_chans, image_size=size, **options).eval()
        assert isinstance(model, Network)
        pool_size = tuple(model.forward_features(torch.empty(1, in_chans, *size)).shape[2:])
    stem = itertools.takewhile(lambda named: not isinstance(named[1], nn.BatchNorm2d), model.named_modules())
    convs = tuple(path for path, m in stem if isinstance(m, nn.Conv2d) and m.in_channels == in_chans)
    first_conv = convs[0] if len(convs) == 1 else convs
    cfg = {"input_size": (in_chans, *size), "pool_size": pool_size, "first_conv": first_conv}
    return cfg, len(model.feature_info)


def _entrypoint(timm_name: str, name: str) -> Callable[..., nn.Module]:
    def build(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        if pretrained:
            raise checks.InputError(f"{timm_name} has no pretrained weights; leave pretrained=True out")
        default = _default_cfg(name)
        in_chans = kwargs.pop("in_chans", 3)
        size = checks.rows_columns("img_size", kwargs.pop("img_size", default["input_size"][1:]))
        options = {key: value for key, value in kwargs.items() if key in find(name).options}
        cfg, stages = _shapes(name, in_chans, size, options)
        return build_model_with_cfg(
            _network,
            timm_name,
            False,
            # Hooks on the whole network take the outputs of stages, since a network does more than call its children.
            feature_cfg={"feature_cls": "hook", "no_rewrite": True, "out_indices": tuple(range(stages))},
            pretrained_cfg_overlay={**cfg, **(kwargs.pop("pretrained_cfg_overlay", None) or {})},
            name=name,
            in_chans=in_chans,
            img_size=size,
            **{"num_classes": default["num_classes"], **kwargs},
        )

    build.__name__ = build.__qualname__ = timm_name
    build.__doc__ = f"`attnconv.models.create_model({name!r})`."
    return build


for _timm_name, _name in NAMES.items():
    globals()[_timm_name] = register_model(_entrypoint(_timm_name, _name))
