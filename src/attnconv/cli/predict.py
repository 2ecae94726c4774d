"""attnconv predict: classes for image files."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from attnconv import checks
from attnconv.cli.output import print_json, print_table, say
from attnconv.train.config import Device


def predict(
    run: Path,
    /,
    *images: Path,
    top: int = 5,
    checkpoint: Literal["best", "last"] = "best",
    skip_bad_images: Annotated[bool, Parameter(negative=())] = False,
    device: Device = "auto",
    trust: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Name what is on images, most likely classes first.

    Parameters
    ----------
    run:
        Folder of a run or of `attnconv hub save`, a checkpoint, or a file of `attnconv export`.
    images:
        Image files, or folders of them.
    top:
        Classes to print for each image.
    checkpoint:
        Which checkpoint of the folder.
    skip_bad_images:
        Name images that cannot be decoded on stderr, and go on.
    device:
        Where to run.
    trust:
        Read a .pt2 file of `attnconv export`, which can run code that is in it: give it for files you trust alone.
    json:
        Print one JSON object.
    """
    import torch

    from attnconv.data import decode_image, prepare_image
    from attnconv.data.image_data import topk
    from attnconv.recipes import load_trained
    from attnconv.train.progress import tracked

    checks.integer("--top", top, at_least=1)
    files = image_files(images)
    trained = load_trained(run, checkpoint=checkpoint, device=device, trust=trust)
    if trained.meta.get("dense"):
        raise checks.InputError(f"predict names whole images, and {trained.config.model!r} gives each pixel a class")
    classes = trained.meta["classes"]
    predictions: list[dict[str, Any]] = []
    skipped: list[str] = []
    for file in tracked(files, total=len(files), text="predicting"):
        try:
            pixels = decode_image(file, trained.meta["channels"])
        except checks.InputError as error:
            if not skip_bad_images:
                raise
            print(f"attnconv: skipped: {error}", file=sys.stderr)
            skipped.append(str(file))
            continue
        image = prepare_image(pixels, trained.meta).to(trained.device)  # (C, H, W)
        with torch.no_grad():
            likely = topk(trained.model(image[None])[0], classes, top)
        predictions.append({"image": str(file), "top": [{"class": name, "probability": p} for name, p in likely]})
    if json:
        print_json({"checkpoint": str(trained.checkpoint), "predictions": predictions, "skipped_images": skipped})
        return
    print_table(
        ("image", *(f"{rank}." for rank in range(1, min(top, len(classes)) + 1))),
        [(p["image"], *(f"{t['class']} {100 * t['probability']:.1f}%" for t in p["top"])) for p in predictions],
    )
    if skipped:
        say(f"{len(skipped)} of {len(files)} images could not be decoded")


def image_files(paths: tuple[Path, ...]) -> list[Path]:
    """The files named, and every image below the folders named, sorted within each."""
    from attnconv.data.folder import SUFFIXES

    if not paths:
        raise checks.InputError("predict needs at least one image or folder")
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(
                p
                for p in path.rglob("*")
                if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()
            )
            if not inside:
                raise checks.InputError(f"folder {path} holds no image ({', '.join(SUFFIXES)})")
            files += inside
        elif path.exists():
            files.append(path)
        else:
            raise checks.InputError(f"no image or folder at {path}")
    return files
