"""Small folders of images, and the real data where ATTNCONV_TEST_DATA names it."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image


def write_images(folder: Path, count: int, *, first: int = 0) -> None:
    """``count`` JPEG files of noise, 20 rows and 27 columns or a little more, each unlike the others."""
    folder.mkdir(parents=True)
    for number in range(first, first + count):
        pixels = np.random.default_rng(number).integers(0, 256, (20 + number % 5, 27, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.jpg", quality=90)


@pytest.fixture
def image_folder(tmp_path):
    """13 training images of three classes, 5 validation images of two of them."""
    folder = tmp_path / "pets"
    write_images(folder / "train" / "cat", 5)
    write_images(folder / "train" / "dog", 6, first=100)
    write_images(folder / "train" / "newt", 2, first=200)
    write_images(folder / "val" / "dog", 3, first=300)
    write_images(folder / "val" / "newt", 2, first=400)
    return folder


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A program of that name on the path; the file that it leaves behind when it is started."""
    program, mark = tmp_path / "bin" / "gs", tmp_path / "started"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch '{mark}'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # what Pillow found before
    return mark


@pytest.fixture
def global_random_state():
    """The state of torch's global generator; a test compares it with what is left of it."""
    torch.manual_seed(7)
    return torch.get_rng_state()


@pytest.fixture(scope="session")
def real_data():
    """A folder with cifar-100-python/ and imagewoof2-160/."""
    if not (folder := os.environ.get("ATTNCONV_TEST_DATA")):
        pytest.skip("ATTNCONV_TEST_DATA names no folder with cifar-100-python/ and imagewoof2-160/")
    if missing := [name for name in ("cifar-100-python", "imagewoof2-160") if not (Path(folder) / name).is_dir()]:
        pytest.skip(f"ATTNCONV_TEST_DATA={folder} lacks {' and '.join(missing)}")
    return Path(folder)
