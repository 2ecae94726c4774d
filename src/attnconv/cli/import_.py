"""attnconv import: a checkpoint of 2019 or of fastai as a folder that the other commands take."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from attnconv import checks, files
from attnconv.cli.flags import ImageSize, pairs


def import_(
    file: Path,
    /,
    *,
    name: Annotated[str, Parameter(name="--as")],
    out: Path,
    data: str | None = None,
    data_dir: Path | None = None,
    classes: Path | None = None,
    mean: Annotated[list[float] | None, Parameter(consume_multiple=True)] = None,
    std: Annotated[list[float] | None, Parameter(consume_multiple=True)] = None,
    image_size: ImageSize = None,
    average: bool = False,
    option: list[str] | None = None,
) -> None:
    """Make a checkpoint of 2019 or of fastai one of our networks: a folder for evaluate, predict, explain and export.

    Read are Attention-Augmented-Conv2d's Wide_ResNet, the XResNets of SimpleSelfAttention and those of fastai 1 and 2,
    as they were saved: state dicts, what holds one, whole modules. Nothing in the file is run. Mean, standard deviation
    and image size are those of the program that wrote it unless they are given.

    Parameters
    ----------
    file:
        The checkpoint.
    name:
        Our name of the network, such as seed_aa_wide_resnet28_10 or ssa_xresnet50.
    out:
        Folder to write, made if need be, as that of `attnconv hub save`.
    data:
        Data set, or folder of images, whose classes these are; 0, 1, ... if neither it nor --classes is given.
    data_dir:
        Folder of the named data sets.
    classes:
        Text file with the name of a class a line, in the order of the outputs.
    mean:
        That images were normalised with, one number a channel.
    std:
        Likewise their standard deviation.
    image_size:
        Side of the images, pixels.
    average:
        Take the averaged weights, where the file holds both.
    option:
        An option of the network, NAME=VALUE; may be repeated.
    """
    from attnconv.extensions import is_factory
    from attnconv.recipes.imported import imported

    if is_factory(name):
        raise checks.InputError(f"--as must be one of our networks, such as ssa_xresnet50, got {name!r}")
    if (out / "config.yaml").exists():
        raise checks.InputError(f"{out} is the folder of a run; give --out another one")
    model = imported(
        file,
        name,
        options=pairs(option),
        average=average,
        data=data,
        data_dir=data_dir,
        classes=None if classes is None else class_names(classes),
        mean=mean,
        std=std,
        image_size=image_size,
    )
    model.save_pretrained(out)
    assert model.meta is not None
    assert model.provenance is not None
    rows, columns = model.meta["image_size"]
    print(f"{out}: config.json, model.safetensors, README.md")
    size = sum(p.numel() for p in model.parameters())
    print(f"{name}, {size:,} parameters, from {file}: {model.provenance['imported']['taken']}")
    print(f"images of {rows} x {columns}, mean {_numbers(model.meta['mean'])}, std {_numbers(model.meta['std'])}")
    unnamed = ", called 0, 1, ...; --data or --classes names them" if data is None and classes is None else ""
    print(f"{len(model.meta['classes'])} classes{unnamed}")


def class_names(file: Path) -> list[str]:
    """The lines of ``file``; InputError if it cannot be read, or one is empty or stands there twice."""
    try:
        names = [line.strip() for line in files.read_text(file).rstrip().split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise checks.InputError(f"--classes: cannot read {file}: {checks.first_line(error)}") from None
    lines: dict[str, int] = {}
    for i, name in enumerate(names, 1):
        if not name:
            raise checks.InputError(f"--classes: line {i} of {file} is empty")
        if name in lines:
            raise checks.InputError(f"--classes: lines {lines[name]} and {i} of {file} are {name!r} both")
        lines[name] = i
    return names


def _numbers(values: list[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)
