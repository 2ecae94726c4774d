"""Our networks in timm's registry: after ``import attnconv.timm``, ``timm.create_model("aa_resnet50")`` makes one.

Generated from `attnconv.models`: each listed name is an entrypoint, which takes timm's arguments (num_classes,
in_chans, img_size, drop_rate, global_pool, features_only, out_indices), ``init_from`` and the network's own options.
The few names that timm has already (its plain ResNets, the same networks) stay timm's; ours have "attnconv_" in front.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from attnconv import checks
from attnconv.models import create_model, list_models
from attnconv.models.init_from import Source
from attnconv.models.network import Network
from attnconv.models.registry import CIFAR100, check_options, usual_images

checks.require("timm", extra="timm")
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD  # noqa: E402
from timm.models import build_model_with_cfg, generate_default_cfgs, is_model, model_entrypoint, register_model  # noqa: E402


def _default_cfg(name: str) -> dict[str, Any]:
    images = usual_images(name)
    return {
        "url": "",
        "num_classes": images.num_classes,
        "input_size": (3, images.image_size, images.image_size),
        "pool_size": None,
        "crop_pct": 1.0 if images == CIFAR100 else 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "classifier": "fc",
    }


def _is_timms(name: str) -> bool:
    return is_model(name) and model_entrypoint(name).__module__ != __name__


NAMES = {f"attnconv_{name}" if _is_timms(name) else name: name for name in list_models()}
default_cfgs = generate_default_cfgs({timm_name: _default_cfg(name) for timm_name, name in NAMES.items()})
__all__ = ["NAMES", "default_cfgs"]


def _network(
    *,
    name: str,
    num_classes: int,
    in_chans: int,
    img_size: int | tuple[int, int],
    drop_rate: float = 0.0,
    global_pool: str = "avg",
    init_from: Source | None = None,
    **options: Any,
) -> nn.Module:
    """Make a network with what timm reads from it: num_classes may be 0, and feature_info describes each stage."""
    check_options(name, options)
    settings: dict[str, Any] = {"in_channels": in_chans, "image_size": img_size, **options}
    if init_from is None:
        model = create_model(name, num_classes=num_classes or 1, **settings)
    else:
        model, transfer = create_model(name, num_classes=num_classes or 1, init_from=init_from, **settings)
        model.transfer = transfer  # type: ignore[assignment]
    assert isinstance(model, Network)
    model.drop_rate = drop_rate
    model.feature_info = _feature_info(name, in_chans, options)
    if num_classes == 0 or not global_pool:
        model.reset_classifier(num_classes, global_pool)
    return model


def _feature_info(name: str, in_channels: int, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Return channels and reduction of each stage, seen on the meta device at a size that every stage divides."""
    side = 256
    found: list[dict[str, Any]] = []
    with torch.device("meta"), torch.no_grad():
        model = create_model(name, num_classes=1, in_channels=in_channels, image_size=side, **options).eval()
        assert isinstance(model, Network)
        names = {model.get_submodule(stage): stage for stage in model.stage_names()}

        def see(stage: nn.Module, _: Any, y: Any) -> None:
            found.append({"num_chs": y.shape[1], "reduction": side // y.shape[2], "module": names[stage]})

        for stage in names:
            stage.register_forward_hook(see)
        model(torch.empty(1, in_channels, side, side))
    return found


@functools.cache
def _stages(name: str) -> int:
    """Return the number of stages: `features_only` gives them all."""
    with torch.device("meta"):
        model = create_model(name, num_classes=1, image_size=usual_images(name).image_size)
    assert isinstance(model, Network)
    return len(model.stage_names())


def _entrypoint(timm_name: str, name: str) -> Callable[..., nn.Module]:
    def build(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        if pretrained:
            raise checks.InputError(f"{timm_name} has no pretrained weights; leave pretrained=True out")
        default = _default_cfg(name)
        in_chans = kwargs.pop("in_chans", 3)
        img_size = kwargs.pop("img_size", default["input_size"][1:])
        rows, columns = checks.per_axis("img_size", img_size, 2, at_least=1)
        overlay = {"input_size": (in_chans, rows, columns), **(kwargs.pop("pretrained_cfg_overlay", None) or {})}
        return build_model_with_cfg(
            _network,
            timm_name,
            False,
            # The whole network runs, and hooks take the stages' outputs: a network does more than call its children.
            feature_cfg={"feature_cls": "hook", "no_rewrite": True, "out_indices": tuple(range(_stages(name)))},
            pretrained_cfg_overlay=overlay,
            name=name,
            in_chans=in_chans,
            img_size=(rows, columns),
            **{"num_classes": default["num_classes"], **kwargs},
        )

    build.__name__ = build.__qualname__ = timm_name
    build.__doc__ = f"`attnconv.models.create_model({name!r})`."
    return build


for _timm_name, _name in NAMES.items():
    globals()[_timm_name] = register_model(_entrypoint(_timm_name, _name))
