"""A folder with every kind of image that users have, and of file that is none, seen through the loaders."""

import numpy as np
import pytest
import torch
from data.conftest import write_images
from PIL import Image

from attnconv.data import load_data

CPU = torch.device("cpu")
PIXELS = np.random.default_rng(0).integers(0, 256, (21, 27, 3), dtype=np.uint8)
COLOUR = Image.fromarray(PIXELS)

GOOD = {
    "16-bit.png": lambda path: Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257).save(path),
    "grey.jpg": lambda path: COLOUR.convert("L").save(path),
    "bits.png": lambda path: COLOUR.convert("1").save(path),
    "cmyk.jpg": lambda path: COLOUR.convert("CMYK").save(path),
    "palette.png": lambda path: COLOUR.convert("P").save(path),
    "transparent.png": lambda path: COLOUR.convert("RGBA").save(path),
    "animated.gif": lambda path: COLOUR.save(path, save_all=True, append_images=[Image.new("RGB", (27, 21))] * 2),
    "animated.webp": lambda path: COLOUR.save(path, save_all=True, append_images=[Image.new("RGB", (27, 21))]),
    "one-pixel.png": lambda path: Image.new("RGB", (1, 1), (9, 9, 9)).save(path),
    "wide.png": lambda path: Image.new("RGB", (20000, 3), (9, 9, 9)).save(path),
    "high.jpg": lambda path: Image.new("RGB", (3, 20000), (9, 9, 9)).save(path),
}
BAD = {
    "empty.jpg": lambda path: path.write_bytes(b""),
    "text.png": lambda path: path.write_text("no picture at all"),
    "cut.jpg": lambda path: (COLOUR.save(path), path.write_bytes(path.read_bytes()[:-60])),
    "header.png": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"),
}


@pytest.fixture
def odd_folder(tmp_path):
    """The class of odd files, and one with a single image."""
    for part in ("train", "val"):
        write_images(tmp_path / part / "single", 1)
        (tmp_path / part / "odd").mkdir()
        for name, write in {**GOOD, **BAD}.items():
            write(tmp_path / part / "odd" / name)
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_all_that_can_be_decoded_is_and_the_rest_is_named(odd_folder, workers):
    data = load_data(str(odd_folder), image_size=16, skip_bad_images=True)
    train, val = data.loaders(batch_size=data.num_train, seed=0, device=CPU, workers=workers)
    for loader, part in ((train, "train"), (val, "val")):
        (batch,) = loader.epoch(0)
        assert batch.images.shape == (len(GOOD) + 1, 3, 16, 16)
        assert batch.images.isfinite().all()
        assert batch.labels.bincount().tolist() == [len(GOOD), 1]
        assert loader.skipped == sorted(str(odd_folder / part / "odd" / name) for name in BAD)


def test_a_class_with_one_image_is_learned_from(odd_folder):
    data = load_data(str(odd_folder), image_size=16, skip_bad_images=True)
    train, _ = data.loaders(batch_size=2, seed=0, device=CPU, workers=0)
    labels = torch.cat([batch.labels for batch in train.epoch(0)])
    assert (labels == data.classes.index("single")).sum() == 1
