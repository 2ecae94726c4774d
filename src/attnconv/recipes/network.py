"""Make the network of a run, and check that it fits the data."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnconv import checks
from attnconv.extensions import LIBRARIES
from attnconv.foreign import WHOLE
from attnconv.models import list_models, set_recompute
from attnconv.models.registry import build_model, find
from attnconv.surgery.steps import checked_steps
from attnconv.train.config import RunConfig

ANY_SIZE = 224  # pixels, while the data's size is unknown


def require_network(config: RunConfig, *, fresh: bool = True) -> None:
    """Raise InputError unless the network of ``config`` can be made with its options.

    A network of this library is made on the meta device. A user's factory is not called: only its name, its options and
    the steps are checked. Only a ``fresh`` run needs the file that ``init_from`` names.
    """
    source = find(config.model)
    source.check_options(config.model_options)
    checked_steps(config.attention, layers=True)
    if fresh and config.init_from is not None and config.init_from not in LIBRARIES:
        path = Path(config.init_from).expanduser()
        if not path.is_file():
            raise checks.InputError(
                f"init_from {config.init_from!r} is neither a file nor one of {', '.join(LIBRARIES)}"
            )
    if not source.own:
        return
    with torch.device("meta"):
        build_model(
            config.model,
            num_classes=10,
            in_channels=3,
            image_size=config.image_size or ANY_SIZE,
            attention=config.attention,
            options=config.model_options,
        )


def channels_of(config: RunConfig, channels: int) -> int:
    """Return the channels that the network of ``config`` takes for images of ``channels``: 3 if it takes no other."""
    return channels if "in_channels" in find(config.model).takes else 3


def make_network(
    config: RunConfig, meta: dict[str, Any], *, given: nn.Module | None = None, fresh: bool = True
) -> tuple[nn.Module, tuple[str, ...], list[str]]:
    """Return the network of a run, initialised from the seed, its tensors from ``init_from``, and notes about these.

    Args:
        config: checked by `require_network`.
        meta: of `ImageData.meta`.
        given: a network that is made already, instead of the one that ``config`` names.
        fresh: load the weights of ``init_from``; False for a run that continues from a checkpoint.
    Raises:
        InputError: the network does not take these images or has another number of outputs than there are classes; a
            step or ``init_from`` matches nothing in it; it has nothing to recompute or to train.
    """
    model, transfer = given, None
    if model is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model, transfer = build_model(
                config.model,
                num_classes=len(meta["classes"]),
                in_channels=meta["channels"],
                image_size=meta["image_size"],
                attention=config.attention,
                options=config.model_options,
                init_from=config.init_from if fresh else None,
            )
    if config.recompute_attention and not set_recompute(model):
        raise checks.InputError(f"recompute_attention needs attention layers, and model {config.model!r} has none")
    require_fit(model, config.model, meta)
    if transfer is None:
        return model, (), []
    if config.freeze_epochs and {name for name, _ in model.named_parameters()} <= set(transfer.taken_over):
        raise checks.InputError(
            f"freeze_epochs {config.freeze_epochs} leaves nothing to train: init_from brought every weight"
        )
    text = f"init_from: {len(transfer.taken_over)} tensors taken over"
    if transfer.taken not in ("", WHOLE):
        text += f" ({transfer.taken})"
    if transfer.left:
        more = f", and {len(transfer.left) - 3} more" if len(transfer.left) > 3 else ""
        text += f", {len(transfer.left)} new: {', '.join(transfer.left[:3])}{more}"
    return model, transfer.taken_over, [text]


def require_fit(model: nn.Module, name: str, meta: dict[str, Any]) -> None:
    """Raise InputError, before anything is written, if ``model`` does not fit the images and classes in ``meta``.

    Raises:
        InputError: it fails on images of this size, classifies images where pixels have labels or pixels where images
            have, or does not give one number a class.
    """
    dense, classes = meta.get("dense", False), len(meta["classes"])
    answer = _answer(model, name, meta)
    if not isinstance(answer, Tensor) or answer.ndim not in (2, 4) or answer.shape[0] != 2:
        got = f"a tensor {tuple(answer.shape)}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
        raise checks.InputError(f"model {name!r} must give one tensor (B, {classes}) of logits, it gives {got}")
    if (answer.ndim == 4) != dense:
        label, answered = ("pixel", "image") if dense else ("image", "pixel")
        raise checks.InputError(
            f"data set {meta['name']!r} has a label for each {label}, and model {name!r} an answer for each "
            f"{answered}; models of pixels: {', '.join(list_models(dense=True))}"
        )
    if answer.shape[1] != classes:
        raise checks.InputError(
            f"model {name!r} gives {answer.shape[1]} numbers, and data set {meta['name']!r} has {classes} classes"
        )


def _answer(model: nn.Module, name: str, meta: dict[str, Any]) -> Any:
    """Return the output of ``model`` for two images, on the meta device or, if that fails, for zeros."""
    shape = (2, meta["channels"], *meta["image_size"])
    failed: Exception | None = None
    for device in ("meta", "cpu"):  # on meta an operator that needs numbers fails, say
        try:
            with torch.no_grad():
                return copy.deepcopy(model).to(device)(torch.zeros(shape, device=device))
        except checks.InputError:
            raise
        except Exception as error:  # of a user's code
            failed = error
    size, reason = " x ".join(map(str, shape[1:])), checks.first_line(failed)
    raise checks.InputError(
        f"model {name!r} does not take images of {size}: {type(failed).__name__}: {reason}"
    ) from failed
