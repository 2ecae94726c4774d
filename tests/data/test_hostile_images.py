"""Files whose bytes ask for another decoder than those of the formats that are listed: none is started."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from data.conftest import write_images
from PIL import Image

from attnconv.checks import InputError
from attnconv.data import decode_image, load_data
from attnconv.data.decode import FORMATS, HEIF, decode_bytes, is_image
from attnconv.data.folder import SUFFIXES

Image.init()
OTHERS = sorted(Image.OPEN.keys() - {*FORMATS, HEIF})
# What Pillow writes of them: an MPO file is a JPEG file, no PDF file is read, and the last four are written by others.
WRITTEN = sorted(Image.SAVE.keys() - {*FORMATS, HEIF, "MPO", "PDF", "BUFR", "GRIB", "HDF5", "WMF"})
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
UNKNOWN = (
    r"it is no image, or of a format unknown here \(known: JPEG, PNG, GIF, WEBP, BMP, TIFF, PPM, AVIF, JPEG2000, "
    r"HEIC with pillow-heif\)"
)


@pytest.fixture(autouse=True)
def own_suffixes(monkeypatch):
    """Saving as SPIDER gives that format its suffix, .jpg here, for the rest of the process."""
    monkeypatch.setattr(Image, "EXTENSION", dict(Image.EXTENSION))


def save_as(path: Path, kind: str) -> Path:
    """A file of ``kind`` under a name that says something else."""
    for mode in ("RGB", "1", "P", "L", "F"):
        try:
            PICTURE.convert(mode).save(path, kind)
        except (OSError, ValueError, KeyError):
            continue
        return path
    raise AssertionError(f"Pillow writes no {kind}")


def test_there_are_other_formats():
    assert len(OTHERS) > 30
    assert {"EPS", "TGA", "ICO"} <= set(WRITTEN)


@pytest.mark.parametrize(("kind", "suffix"), [*((kind, ".png") for kind in WRITTEN), ("EPS", ".jpg"), ("TGA", ".tif")])
def test_another_format_is_refused_whatever_the_file_is_called(tmp_path, kind, suffix):
    path = save_as(tmp_path / f"x{suffix}", kind)
    with pytest.raises(InputError, match=f"^cannot decode image .*x{suffix}: {UNKNOWN}$") as caught:
        decode_image(path, 3)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", OTHERS)
def test_no_other_plugin_is_even_asked(monkeypatch, kind):
    asked = []
    monkeypatch.setitem(Image.OPEN, kind, (lambda *file: asked.append(kind), lambda start: asked.append(kind) or True))
    content = np.frombuffer(b"whatever this is, no listed format begins with it", dtype=np.uint8)
    with pytest.raises(InputError, match=UNKNOWN):
        decode_bytes(content, 3, name="x.png")
    assert asked == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_content_chooses_among_those_that_are_listed(tmp_path, suffix):
    for kind in FORMATS:
        PICTURE.save(tmp_path / f"x{suffix}", kind, **({"lossless": True} if kind == "WEBP" else {}))
        found = decode_image(tmp_path / f"x{suffix}", 3).float()
        expected = torch.from_numpy(np.array(PICTURE)).permute(2, 0, 1).float()
        assert (found - expected).abs().mean() < (60 if kind in ("JPEG", "GIF", "AVIF") else 0.01), kind


def test_this_ghostscript_would_be_started(tmp_path, ghostscript):
    with suppress(OSError), Image.open(save_as(tmp_path / "x.png", "EPS")) as file:
        file.load()
    assert ghostscript.exists()


def test_an_eps_file_starts_no_ghostscript(tmp_path, ghostscript):
    path = save_as(tmp_path / "x.png", "EPS")
    with pytest.raises(InputError, match=UNKNOWN):
        decode_image(path, 3)
    with path.open("rb") as file:
        assert not is_image(file)
    assert not ghostscript.exists()


def test_such_files_of_a_set_are_left_out_and_counted(tmp_path, ghostscript):
    folder = tmp_path / "pets"
    for part in ("train", "val"):
        write_images(folder / part / "cat", 2)
        save_as(folder / part / "cat" / "x.png", "EPS")
    for cached in (False, True):
        options = {"image_size": 8, "cache_images": cached}
        for loader_of in ("train_loader", "val_loader"):
            arguments = {"batch_size": 3, "device": torch.device("cpu"), "workers": 0}
            arguments |= {"seed": 0} if loader_of == "train_loader" else {}
            strict = getattr(load_data(str(folder), **options), loader_of)(**arguments)
            with pytest.raises(InputError, match=rf"{UNKNOWN}; --skip-bad-images leaves such files out"):
                list(strict.epoch(0))
            lenient = getattr(load_data(str(folder), skip_bad_images=True, **options), loader_of)(**arguments)
            assert [len(batch.labels) for batch in lenient.epoch(0)] == [2]
            assert len(lenient.skipped) == 1
    assert not ghostscript.exists()
