"""attnconv import: convert a checkpoint of 2019 or of fastai to a folder that the other commands read."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from attnconv import checks, files
from attnconv.cli.flags import ImageSize, pairs
from attnconv.cli.terminal import say


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
    """Convert a checkpoint of 2019 or of fastai to a network of this library, a folder that the other commands read.

    It reads Attention-Augmented-Conv2d's Wide_ResNet and the XResNets of SimpleSelfAttention, of fastai 2 and, from
    xresnet50 on, of fastai 1.0.52, saved as state dicts, as training checkpoints or as whole modules. No code in the
    file runs. Mean, standard deviation and image size default to those of the program that wrote the file.

    Parameters
    ----------
    file:
        The checkpoint.
    name:
        Our name of the network, such as seed_aa_wide_resnet28_10 or ssa_xresnet50.
    out:
        Folder to write, in the form of `attnconv hub save`.
    data:
        Data set or folder of images with the same classes. Without it and --classes, classes are called 0, 1, ...
    data_dir:
        Folder of the named data sets.
    classes:
        Text file with one class name a line, in the order of the outputs.
    mean:
        Mean that images were normalised with, one number a channel.
    std:
        Standard deviation, likewise.
    image_size:
        Side of the images, pixels.
    average:
        Take the averaged weights if the file holds both.
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
    say(f"{out}: config.json, model.safetensors, README.md")
    size = sum(p.numel() for p in model.parameters())
    say(f"{name}, {size:,} parameters, from {file}: {model.provenance['imported']['taken']}")
    say(f"images of {rows} x {columns}, mean {_numbers(model.meta['mean'])}, std {_numbers(model.meta['std'])}")
    unnamed = ", called 0, 1, ...; --data or --classes names them" if data is None and classes is None else ""
    say(f"{len(model.meta['classes'])} classes{unnamed}")


def class_names(file: Path) -> list[str]:
    """Return the lines of ``file``; InputError if it cannot be read, or a line is empty or a duplicate."""
    with checks.explained(f"--classes: cannot read {file}", OSError, UnicodeDecodeError):
        names = [line.strip() for line in files.read_text(file).removeprefix("\ufeff").rstrip().split("\n")]
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
