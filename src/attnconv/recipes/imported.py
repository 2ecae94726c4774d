"""Convert a checkpoint of 2019 or of fastai to a network with the facts of its images.

Sources of the defaults: the preprocess.py of Attention-Augmented-Conv2d's AA-Wide-ResNet, and the train.py of
SimpleSelfAttention.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnconv import checks
from attnconv.compat import load_checkpoint
from attnconv.data import load_data
from attnconv.data.folder import MEAN, PRESIZE_MARGIN, STD
from attnconv.foreign import read_state_dict
from attnconv.models import HubNetwork
from attnconv.models.image_sizes import require_covered
from attnconv.models.saved import checked_meta
from attnconv.recipes.trained import shareable
from attnconv.train.config import YOUR_FOLDER, RunConfig

# Mean and standard deviation of the first program's two modes, which differ in their numbers of classes.
CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
CIFAR100 = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


def imported(
    file: Path,
    name: str,
    *,
    options: Mapping[str, Any],
    average: bool = False,
    data: str | None = None,
    data_dir: Path | None = None,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> HubNetwork:
    """Return the network of `attnconv.compat.load_checkpoint`, with the ``meta`` for predict, evaluate and export.

    Args:
        file, name, options, average: of `load_checkpoint`.
        data, data_dir: data set or folder with the same classes, as in `attnconv.data.load_data`.
        classes: class names in the order of the outputs, in place of ``data``; by default 0, 1, ...
        mean, std: of the normalisation; by default the program's.
        image_size: side, or rows and columns, in pixels; by default that of the position tables or of ``data``, or 128.
    Raises:
        InputError: as `load_checkpoint` and `load_data`, or the arguments do not fit the network.
    """
    if data is not None and classes is not None:
        raise checks.InputError("--data names the classes already; leave --classes out")
    found = read_state_dict(file, average=average)
    model = load_checkpoint(found, name, **options)
    blueprint = model.blueprint
    assert blueprint is not None
    of_cifar = name.startswith("seed_aa_wide_resnet")
    size = blueprint.image_size if image_size is None else checks.rows_columns("image_size", image_size)
    images = None
    if data is not None:
        wanted = size if of_cifar else image_size  # other networks take the data's own size
        images = load_data(data, data_dir=data_dir, image_size=wanted, presize=not of_cifar)
        size = images.image_size
    if images is not None:
        classes = images.classes
    names = [str(i) for i in range(blueprint.num_classes)] if classes is None else list(classes)
    if len(names) != blueprint.num_classes:
        what = "--classes names" if images is None else f"{images.name!r} has"
        raise checks.InputError(f"{what} {len(names)} classes, the network in {file} has {blueprint.num_classes}")
    if images is not None and images.channels != blueprint.in_channels:
        raise checks.InputError(
            f"{data!r} has {images.channels} image channels, the network in {file} {blueprint.in_channels}"
        )
    require_covered(model, blueprint.in_channels, size)
    config = shareable(RunConfig(data=data or YOUR_FOLDER))
    # The program's for colour images; for others those of ``images``.
    if blueprint.in_channels == 3:
        usual = (CIFAR10 if blueprint.num_classes == 10 else CIFAR100) if of_cifar else (MEAN, STD)
    else:
        usual = (None, None) if images is None else (images.mean, images.std)
    mean, std = mean or usual[0], std or usual[1]
    if mean is None or std is None:
        raise checks.InputError(
            f"the network in {file} takes images of {blueprint.in_channels} channels: give --mean and --std, one "
            "number a channel"
        )
    usual_ratio = 1.0 if of_cifar else (max(size) + PRESIZE_MARGIN) / max(size)
    model.meta = checked_meta(
        {
            "name": config.data,
            "classes": names,
            "channels": blueprint.in_channels,
            "image_size": list(size),
            "mean": list(mean),
            "std": list(std),
            "resize_ratio": usual_ratio if images is None else images.resize_ratio,
        }
    )
    model.provenance = {
        "imported": {"file": file.name, "taken": found.taken},
        "config": {
            "model": name,
            "model_options": dict(blueprint.options),
            "data": config.data,
            "image_size": list(size) if size[0] != size[1] else size[0],
            "presize": not of_cifar,
        },
    }
    return model
