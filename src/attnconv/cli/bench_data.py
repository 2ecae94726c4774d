"""attnconv bench data: images a second of the loader, beside a pipeline of Pillow's."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from attnconv.cli.bench import RESULTS, hold_contests, settings_of


def data(
    *,
    data: str = "imagewoof",
    data_dir: Path | None = None,
    image_size: int = 128,
    images: int = 512,
    batch_size: int = 64,
    rounds: int = 7,
    out: Path = RESULTS,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Images a second of the training loader on files, against Pillow's, one thread each. Half a minute.

    Parameters
    ----------
    data:
        imagenette or imagewoof, or a folder with train/<class>/* and val/<class>/*.
    data_dir:
        Folder that holds (or receives) the named data sets.
    image_size:
        Side of the square images, pixels.
    images:
        How many, always the same ones; a multiple of the batch.
    batch_size:
        Images of a batch.
    rounds:
        Turns of each contestant.
    out:
        Folder of the records, to which data.jsonl is added.
    json:
        Print the new records as one JSON list.
    """
    from attnconv.bench import data as room
    from attnconv.data import load_data

    settings = settings_of("cpu", "float32", rounds, False)
    plain, cached = (
        load_data(data, data_dir=data_dir, image_size=image_size, train_subset=images, cache_images=keep)
        for keep in (False, True)
    )
    contest = room.contest(plain, cached, batch=batch_size)
    with room.one_thread():
        found = hold_contests([contest], settings, out / "data.jsonl", json)
    if not json:
        for record in found:
            if (speed := room.images_per_second(record)) is not None:
                print(f"{record['contestant']}: {speed:.0f} images/s")
