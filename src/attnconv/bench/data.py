"""Images a second of the training loader on files, against a pipeline of Pillow's as most scripts have it, on one core.

Both read the same files, cut a random part of 35 to 100% of each, resize it, mirror half of them, and end with batches
of normalised float32.

Letters: B batch, S side of the square images.
"""

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnconv import checks, files
from attnconv.bench.contest import Call, Contest, Contestant
from attnconv.data import ImageData
from attnconv.data.decode import FORMATS
from attnconv.data.files import FileSource

CPU = torch.device("cpu")
PASS = "training batches"
CROP_SCALE = (0.35, 1.0)


@dataclass(frozen=True)
class PillowPipeline:
    """Decode, crop, resize, mirror by Pillow; to float and normalise image by image."""

    paths: Sequence[str]
    data: ImageData
    batch: int

    def call(self) -> Call:
        transforms = checks.require("torchvision.transforms", extra="train")
        from PIL import Image

        steps = transforms.Compose(
            [
                transforms.RandomResizedCrop(self.data.image_size, scale=CROP_SCALE),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(self.data.mean, self.data.std),
            ]
        )

        def one(path: str) -> Tensor:
            with files.opened(path) as file:
                return steps(Image.open(file, formats=FORMATS).convert("RGB"))

        def epoch() -> int:
            starts = range(0, len(self.paths), self.batch)
            batches = (torch.stack([one(path) for path in self.paths[i : i + self.batch]]) for i in starts)
            return sum(len(images) for images in batches)

        return epoch


def loader_call(data: ImageData, batch: int) -> Call:
    """An epoch of our loader in this process."""
    loader = data.train_loader(batch_size=batch, seed=0, device=CPU, workers=0)
    return lambda: sum(len(labels) for _, labels in loader.epoch(0))


def contest(data: ImageData, cached: ImageData, *, batch: int) -> Contest:
    """The loader as it is, and with its images in memory (``cached``), against Pillow.

    Args:
        data: files, of which all training images are read, in full batches of ``batch``.
        cached: the same files with ``cache_images``.
    Raises:
        InputError: the images are no files, or do not fill whole batches.
    """
    source = data.train
    if not isinstance(source, FileSource):
        raise checks.InputError(f"data must be a folder or Imagenette or Imagewoof, which are files, got {data.name!r}")
    if data.num_train % batch:
        raise checks.InputError(f"images must be a multiple of the batch of {batch}, got {data.num_train}")

    def enter() -> list[Contestant]:
        return [
            Contestant("pillow", PillowPipeline(source.paths, data, batch).call),
            Contestant("loader", lambda: loader_call(data, batch)),
            Contestant("loader-cached", lambda: loader_call(cached, batch)),
        ]

    return Contest(
        study="data",
        case=data.name,
        shape={"images": data.num_train, "B": batch, "S": data.image_size[0], "decoder": decoder()},
        what=PASS,
        baseline="pillow",
        enter=enter,
    )


def decoder() -> str:
    """Return the name of what decodes JPEG files here."""
    return "pillow" if importlib.util.find_spec("simplejpeg") is None else "simplejpeg"


def images_per_second(record: dict[str, Any]) -> float | None:
    """Of a record of this contest; None if the contestant did not run."""
    return record["shape"]["images"] / record["median_seconds"] if record["median_seconds"] else None


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compare on one core: Pillow uses no more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
