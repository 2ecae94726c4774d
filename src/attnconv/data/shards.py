"""A folder of WebDataset shards, train-*.tar and val-*.tar, as data: images are read from any place of them.

So a run on shards has the order, the augmentation and the resume of a run on files. Reading needs no package of
WebDataset's: a plain tar file holds its members as they are.
"""

import dataclasses
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from attnconv import checks, files
from attnconv.data.decode import count_pixels
from attnconv.data.files import PLAIN, EncodedSource, FileOptions
from attnconv.data.folder import data_of_sources, size_and_ratio
from attnconv.data.image_data import ImageData
from attnconv.data.shard_index import open_index


def load_shards(folder: Path, *, image_size: int | None, options: FileOptions = PLAIN) -> ImageData:
    """The images in the shards of ``folder``, whose index is made if there is none.

    Raises:
        InputError: a shard is missing, cut short or changed, or the index is damaged, or what `make_index` refuses.
    """
    index = open_index(folder)
    size, ratio = size_and_ratio(image_size, options)
    paths = tuple(str(folder / shard.name) for shard in index.shards)

    def source(members: np.ndarray) -> ShardSource:
        return ShardSource(
            paths=paths,
            members=members,
            labels=members["label"],
            image_size=size,
            resize_ratio=ratio,
            options=options,
        )

    return data_of_sources(folder, index.classes, source(index.train), source(index.val))


@dataclass(frozen=True, eq=False, kw_only=True)
class ShardSource(EncodedSource):
    """Images in shards at ``paths``; ``members`` as in ``ShardIndex``.

    A shard is opened for each image, as a file would be: so there is nothing that processes would have to share.
    """

    paths: tuple[str, ...] = field(repr=False)
    members: np.ndarray = field(repr=False)

    def subset(self, indices: Tensor) -> "ShardSource":
        """The images of these numbers."""
        members = self.members[indices.numpy()]
        return dataclasses.replace(self, members=members, labels=members["label"])

    def name(self, index: int) -> str:
        """The shard's path and the member's name."""
        member = self.members[index]
        return f"{self.paths[member['shard']]}/{member['name'].decode('utf-8', 'replace')}"

    def read(self, index: int) -> np.ndarray:
        """The member; InputError if it cannot be read or is not what the index says."""
        member = self.members[index]
        path, size = self.paths[member["shard"]], int(member["size"])
        try:
            with files.opened(path) as file:
                data = np.fromfile(file, dtype=np.uint8, count=size, offset=int(member["offset"]))
        except OSError as error:
            raise checks.InputError(f"cannot read image {self.name(index)}: {error.strerror or error}") from None
        if data.size != size or zlib.crc32(data.data) != member["crc"]:
            raise checks.InputError(
                f"image {self.name(index)} is not the one that was indexed: the shard is cut short, damaged or changed"
            )
        return data

    def count_pixels(self, index: int) -> int:
        """From the header alone; 0 if that cannot be read."""
        try:
            return count_pixels(io.BytesIO(self.read(index).tobytes()))
        except checks.InputError:
            return 0

    def listing(self) -> Iterator[tuple[str, int]]:
        """The member's name, and bytes."""
        for member in self.members:
            yield member["name"].decode("utf-8", "replace"), int(member["size"])
