"""attnconv evaluate and predict: score a trained network, and classify image files with it."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from attnconv import checks
from attnconv.cli.flags import Checkpoint, ImageSize, load_network, require_run
from attnconv.cli.terminal import counted, print_json, print_table, say, tell
from attnconv.train.config import Device


def evaluate(
    run: Path,
    *,
    data: str | None = None,
    data_dir: Path | None = None,
    image_size: ImageSize = None,
    checkpoint: Checkpoint = "best",
    model: str | None = None,
    batch_size: Annotated[int, Parameter(alias="-b")] = 256,
    workers: int = 2,
    skip_bad_images: bool = False,
    device: Device = "auto",
    trust: bool = False,
    json: bool = False,
) -> None:
    """Score a trained network on validation images: top-1, top-5 from six classes on, and loss.

    Parameters
    ----------
    run:
        Folder of a run or of `attnconv hub save`, a checkpoint, or a file of `attnconv export`.
    data:
        Data set or folder with the same classes; the run's own if not given.
    data_dir:
        Folder of the named data sets.
    image_size:
        Side of the images in pixels, or rows x columns such as 128x192; the run's own if not given.
    checkpoint:
        Checkpoint of the folder.
    model:
        package.module:function of your own network.
    batch_size:
        Images a batch.
    workers:
        Processes that decode a folder's images.
    skip_bad_images:
        Skip and count images that cannot be decoded.
    device:
        Device to run on.
    trust:
        Read a .pt2 file of `attnconv export`. Such a file can run code: only for files that you trust.
    json:
        Print one JSON object.
    """
    require_run(run)
    from attnconv.recipes.trained import images_for
    from attnconv.train.evaluate import evaluate as score

    trained = load_network(run, checkpoint=checkpoint, device=device, model=model, trust=trust)
    found = images_for(
        trained,
        data=data,
        data_dir=data_dir,
        image_size=image_size,
        skip_bad_images=skip_bad_images,
        or_else="--data names it",
    )
    loader = found.val_loader(batch_size=batch_size, device=trained.device, workers=workers)
    for note in found.notes:
        tell(note)
    scores = score(trained.model, loader, progress=True)
    if json:
        print_json(
            {
                "checkpoint": str(trained.checkpoint),
                "data": found.name,
                **{name: score for name, score in dataclasses.asdict(scores).items() if score is not None},
                "skipped_images": loader.skipped,
                **({"passed_over": dict(found.passed_over)} if found.passed_over else {}),
            }
        )
        return
    skipped = len(loader.skipped)
    say(f"{trained.checkpoint}" + (f", {counted(skipped, 'image')} could not be decoded" if skipped else ""))
    top5 = f"{scores.top5:.2f}" if len(trained.meta["classes"]) > 5 else ""  # of five, top-5 says nothing
    miou = "" if scores.miou is None else f"{scores.miou:.2f}"
    row = (found.name, f"{scores.count:,}", f"{scores.top1:.2f}", top5, miou, f"{scores.loss:.4f}")
    print_table(("data", "images", "top-1 %", "top-5 %", "mean IoU %", "loss"), [row])


def predict(
    run: Path,
    /,
    *images: Path,
    top: int = 5,
    checkpoint: Checkpoint = "best",
    model: str | None = None,
    skip_bad_images: bool = False,
    device: Device = "auto",
    trust: bool = False,
    json: bool = False,
) -> None:
    """Classify images, the most likely classes first.

    In folders, other files are skipped and counted. A bad image in a folder does not stop the command, which names it
    at the end and exits with code 2.

    Parameters
    ----------
    run:
        Folder of a run or of `attnconv hub save`, a checkpoint, or a file of `attnconv export`.
    images:
        Image files, or folders of them, sub-folders included.
    top:
        Classes to print for each image.
    checkpoint:
        Checkpoint of the folder.
    model:
        package.module:function of your own network.
    skip_bad_images:
        Skip images that cannot be decoded, and name them on stderr.
    device:
        Device to run on.
    trust:
        Read a .pt2 file of `attnconv export`. Such a file can run code: only for files that you trust.
    json:
        Print one JSON object.
    """
    checks.integer("--top", top, at_least=1)
    if not images:
        raise checks.InputError("predict needs at least one image or folder")
    for path in images:
        if not path.exists():
            raise checks.InputError(f"no image or folder at {path}")
    require_run(run)
    import torch

    from attnconv.data import decode_image, prepare_image
    from attnconv.data.folder import passed_over_line
    from attnconv.data.image_data import topk
    from attnconv.data.view import require_preparable
    from attnconv.train.progress import tracked

    passed: Counter[str] = Counter()
    files = image_files(images, passed)
    trained = load_network(run, checkpoint=checkpoint, device=device, model=model, trust=trust)
    if trained.meta.get("dense"):
        raise checks.InputError(f"predict names whole images, and {trained.config.model!r} gives each pixel a class")
    require_preparable(trained.meta)
    classes = trained.meta["classes"]
    predictions: list[dict[str, Any]] = []
    skipped: list[str] = []
    for file in tracked(files, total=len(files), text="predicting"):
        try:
            pixels = decode_image(file, trained.meta["channels"])
        except checks.InputError as error:
            if not skip_bad_images and file in images:
                raise
            tell(f"skipped: {error}")
            skipped.append(str(file))
            continue
        image = prepare_image(pixels, trained.meta).to(trained.device)  # (C, H, W)
        with torch.no_grad():
            likely = topk(trained.model(image[None])[0], classes, top)
        predictions.append({"image": str(file), "top": [{"class": name, "probability": p} for name, p in likely]})
    bad = f"{len(skipped)} of {len(files)} images could not be decoded"
    if json:
        report = {"checkpoint": str(trained.checkpoint), "predictions": predictions, "skipped_images": skipped}
        print_json({**report, "passed_over": dict(passed)})
    else:
        print_table(
            ("image", *(f"{rank}." for rank in range(1, min(top, len(classes)) + 1))),
            [(p["image"], *(f"{t['class']} {100 * t['probability']:.1f}%" for t in p["top"])) for p in predictions],
        )
        if skipped:
            say(bad)
        if passed:
            say(passed_over_line(passed))
    if skipped and not skip_bad_images:
        raise checks.InputError(f"{bad}, first {skipped[0]}; --skip-bad-images leaves such files out")


def image_files(paths: tuple[Path, ...], passed: Counter[str]) -> list[Path]:
    """Return the files, and the images in the folders, sorted within each; ``passed`` counts other files."""
    from attnconv.data.folder import images_below, passed_over_line

    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        others: Counter[str] = Counter()
        try:
            inside = [Path(name) for name, _ in images_below(path, others)]
        except OSError as error:
            raise checks.InputError(f"cannot read folder {error.filename}: {error.strerror}") from None
        if not inside:
            raise checks.InputError(
                f"folder {path} holds no image" + (f"; {passed_over_line(others)}" if others else "")
            )
        files += inside
        passed += others
    return files
