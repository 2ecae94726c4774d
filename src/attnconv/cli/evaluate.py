"""attnconv evaluate: the scores of a trained network."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from attnconv.cli.output import print_json, say
from attnconv.train.config import Device


def evaluate(
    run: Path,
    *,
    data: str | None = None,
    data_dir: Path | None = None,
    image_size: int | None = None,
    checkpoint: Literal["best", "last"] = "best",
    batch_size: int = 256,
    workers: int = 2,
    skip_bad_images: Annotated[bool, Parameter(negative=())] = False,
    device: Device = "auto",
    trust: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Score a trained network on validation images: loss, top-1 and top-5.

    Parameters
    ----------
    run:
        Folder of a run or of `attnconv hub save`, a checkpoint, or a file of `attnconv export`.
    data:
        Data set or folder with the same classes; the run's own if not given.
    data_dir:
        Folder of the named data sets.
    image_size:
        Side of the images, pixels; the run's own if not given.
    checkpoint:
        Which checkpoint of the folder.
    batch_size:
        Images at once.
    workers:
        Processes that decode a folder's images.
    skip_bad_images:
        Count images that cannot be decoded, and go on.
    device:
        Where to run.
    trust:
        Read a .pt2 file of `attnconv export`, which can run code that is in it: give it for files you trust alone.
    json:
        Print one JSON object.
    """
    from attnconv.recipes import load_trained
    from attnconv.recipes.images import images_for
    from attnconv.train.evaluate import evaluate as score

    trained = load_trained(run, checkpoint=checkpoint, device=device, trust=trust)
    found = images_for(
        trained,
        data=data,
        data_dir=data_dir,
        image_size=image_size,
        skip_bad_images=skip_bad_images,
        or_else="--data names it",
    )
    loader = found.val_loader(batch_size=batch_size, device=trained.device, workers=workers)
    scores = score(trained.model, loader, progress=True)
    if json:
        print_json(
            {
                "checkpoint": str(trained.checkpoint),
                "data": found.name,
                **{name: score for name, score in dataclasses.asdict(scores).items() if score is not None},
                "skipped_images": loader.skipped,
            }
        )
        return
    miou = "" if scores.miou is None else f"mean IoU {scores.miou:.2f}%, "
    say(
        f"{trained.checkpoint} on {found.name}: top-1 {scores.top1:.2f}%, top-5 {scores.top5:.2f}%, {miou}"
        f"loss {scores.loss:.4f}, {scores.count} images"
        + (f"; {len(loader.skipped)} could not be decoded" if loader.skipped else "")
    )
