"""attnconv shards: WebDataset shards of image files, or the index of shards from elsewhere."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from attnconv import checks
from attnconv.cli.output import amount, print_json, say


def shards(
    source: str,
    /,
    *,
    out: Path | None = None,
    images_per_shard: int = 5000,
    data_dir: Path | None = None,
    image_size: int | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Copy image files into WebDataset shards, which `--data` takes as it takes folders.

    The same call goes on after an interruption. Of a folder that holds shards already, without --out, it makes or
    remakes the index.

    Parameters
    ----------
    source:
        Folder with train/<class>/* and val/<class>/*, or imagenette or imagewoof; or a folder of shards.
    out:
        Folder to make.
    images_per_shard:
        Images in a tar file.
    data_dir:
        Folder of the named data sets.
    image_size:
        Of named data sets: the image size, in pixels, that chooses their edition.
    json:
        Print one JSON object.
    """
    from attnconv.data import load_data
    from attnconv.data.shard_index import PARTS, is_shard_folder, make_index, named_classes, save_index
    from attnconv.data.shard_writer import write_shards
    from attnconv.train.progress import tracked

    folder = Path(source).expanduser()
    if out is None:
        if not folder.is_dir() or not is_shard_folder(folder):
            raise checks.InputError(f"shards of {source!r} need --out, a folder to make")
        index = make_index(folder, classes=named_classes(folder), tracked=tracked)
        save_index(index, folder)
    elif folder.is_dir() and is_shard_folder(folder):
        raise checks.InputError(f"{source} holds shards already; leave --out out to make their index")
    else:
        checks.require("webdataset", extra="shards")  # rather now than after a download
        data = load_data(source, data_dir=data_dir, image_size=image_size)
        folder = out
        index = write_shards(data, out, images_per_shard=images_per_shard, tracked=tracked)
    found = {
        "folder": str(folder),
        "classes": len(index.classes),
        **{f"{part}_images": len(getattr(index, part)) for part in PARTS},
        "shards": len(index.shards),
        "bytes": sum(shard.bytes for shard in index.shards),
    }
    if json:
        print_json(found)
        return
    say(
        f"{folder}: {found['train_images']} training and {found['val_images']} validation images of "
        f"{found['classes']} classes in {found['shards']} shards, {amount(found['bytes'], 'B')}"
    )
