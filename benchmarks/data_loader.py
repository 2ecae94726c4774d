"""Images a second of the training loader on files, against a pipeline of Pillow's as most scripts have it, on one core.

python benchmarks/data_loader.py --data imagewoof --image-size 128    (half a minute; adds to results/data.jsonl)

Both read the same files, cut a random part of 35 to 100% of each, resize it, mirror half of them, and end with batches
of normalised float32.

Letters: B batch, S side of the square images.
"""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from attnconv import checks, files
from attnconv.bench.benchmark import Benchmark, Settings, run
from attnconv.bench.machine import Call
from attnconv.bench.records import provenance
from attnconv.data import ImageData, load_data
from attnconv.data.decode import FORMATS
from attnconv.data.files import FileSource
from attnconv.train.device import ROOT, commit

CPU = torch.device("cpu")
PASS = "training batches"
CROP_SCALE = (0.35, 1.0)


def pillow_call(paths: Sequence[str], data: ImageData, batch: int) -> Call:
    """Return an epoch by Pillow: decode, crop, resize, mirror, to float and normalise image by image."""
    transforms = checks.require("torchvision.transforms", extra="train")
    from PIL import Image

    steps = transforms.Compose(
        [
            transforms.RandomResizedCrop(data.image_size, scale=CROP_SCALE),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(data.mean, data.std),
        ]
    )

    def one(path: str) -> Tensor:
        with files.opened(path) as file:
            return steps(Image.open(file, formats=FORMATS).convert("RGB"))

    def epoch() -> int:
        batches = (torch.stack([one(path) for path in paths[i : i + batch]]) for i in range(0, len(paths), batch))
        return sum(len(images) for images in batches)

    return epoch


def loader_call(data: ImageData, batch: int) -> Call:
    """Return an epoch of our loader in this process."""
    loader = data.train_loader(batch_size=batch, seed=0, device=CPU, workers=0)
    return lambda: sum(len(labels) for _, labels in loader.epoch(0))


def data_benchmark(data: ImageData, cached: ImageData, *, batch: int) -> Benchmark:
    """Return the benchmark of the loader as it is, and with its images in memory (``cached``), against Pillow's.

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

    builders: dict[str, Callable[[], Call]] = {
        "pillow": lambda: pillow_call(source.paths, data, batch),
        "loader": lambda: loader_call(data, batch),
        "loader-cached": lambda: loader_call(cached, batch),
    }
    return Benchmark(
        study="data",
        case=data.name,
        shape={"images": data.num_train, "B": batch, "S": data.image_size[0], "decoder": decoder()},
        what=PASS,
        baseline="pillow",
        names=list(builders),
        inputs=lambda: None,
        build=lambda name, _: builders[name](),
    )


def decoder() -> str:
    """Return the name of what decodes JPEG files here."""
    return "pillow" if importlib.util.find_spec("simplejpeg") is None else "simplejpeg"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, add a record for each candidate to data.jsonl, and print its images a second."""
    parser = argparse.ArgumentParser(description="Images a second of the training loader, against Pillow's.")
    parser.add_argument("--data", default="imagewoof", help="imagenette, imagewoof or a folder (%(default)s)")
    parser.add_argument("--data-dir", type=Path, help="folder of the named data sets")
    parser.add_argument("--image-size", type=int, default=128, help="side of the images, pixels (%(default)s)")
    parser.add_argument("--images", type=int, default=512, help="a multiple of the batch (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="images of a batch (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each candidate (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"), help="folder of data.jsonl")
    given = parser.parse_args(arguments)
    plain, cached = (
        load_data(
            given.data,
            data_dir=given.data_dir,
            image_size=given.image_size,
            train_subset=given.images,
            cache_images=keep,
        )
        for keep in (False, True)
    )
    benchmark = data_benchmark(plain, cached, batch=given.batch_size)
    torch.set_num_threads(1)  # compare on one core: Pillow uses no more
    settings = Settings(CPU, rounds=given.rounds)
    made = provenance(CPU, settings.seed, commit=commit(ROOT), command=["python", *sys.argv])
    for records in run([benchmark], settings, made, file=given.out / "data.jsonl"):
        for record in records:
            speed = record["shape"]["images"] / record["median_seconds"] if record["seconds"] else 0
            print(f"{record['contestant']}: {record['why_not'] or f'{speed:.0f} images/s'}")


if __name__ == "__main__":
    main()
