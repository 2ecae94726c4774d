"""Imagenette and Imagewoof: editions, splits, downloads of small archives, and the real folder where it is at hand."""

import hashlib
import io
import re
import tarfile

import pytest
import torch
from data.web import Serving
from PIL import Image

from attnconv.checks import InputError
from attnconv.data import imagenette, load_data
from attnconv.data.imagenette import DIGESTS, IMAGENETTE_SETS, edition_for

NAMES = ("imagenette", "imagewoof", "imagenette-old", "imagewoof-old")


@pytest.mark.parametrize(
    ("size", "edition"), [(1, "-160"), (128, "-160"), (129, "-320"), (224, "-320"), (225, ""), (256, "")]
)
def test_the_edition_follows_from_the_image_size(size, edition):
    assert edition_for(size) == edition


STEMS = ("imagenette2", "imagewoof2", "imagenette", "imagewoof")


def test_checksums_are_well_formed_and_differ():
    digests = [f"{kind}:{digest}" for kind, known in DIGESTS.items() for digest in known.values()]
    assert all(re.fullmatch("md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", digest) for digest in digests)
    assert len(set(digests)) == len(digests) == 15
    assert set(DIGESTS["sha256"]) == {stem + edition for stem in STEMS[:3] for edition in ("", "-160", "-320")}


@pytest.mark.parametrize("name", NAMES)
def test_there_are_ten_classes_in_the_order_of_their_folders(name):
    folders = list(IMAGENETTE_SETS[name][1])
    assert (len(folders), folders) == (10, sorted(folders))


def archive_of(folder: str, wnids) -> bytes:
    """One training and one validation image a class, of a grey that tells the class."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for part in ("train", "val"):
            for label, wnid in enumerate(wnids):
                jpeg = io.BytesIO()
                Image.new("RGB", (8, 8), (20 * label,) * 3).save(jpeg, "JPEG", quality=100)
                info = tarfile.TarInfo(f"{folder}/{part}/{wnid}/{label}.JPEG")
                info.size = jpeg.tell()
                tar.addfile(info, io.BytesIO(jpeg.getvalue()))
    return out.getvalue()


@pytest.fixture
def web(monkeypatch):
    """All twelve archives, small, with checksums of their own."""
    with Serving() as web:
        monkeypatch.setattr(imagenette, "ADDRESS", web.address)
        for stem, classes in IMAGENETTE_SETS.values():
            for edition in ("", "-160", "-320"):
                folder = stem + edition
                data = web.files[f"{folder}.tgz"] = archive_of(folder, classes)
                monkeypatch.setitem(DIGESTS["sha256"], folder, hashlib.sha256(data).hexdigest())
        yield web


@pytest.mark.parametrize(
    ("name", "size", "folder"),
    [
        ("imagenette", None, "imagenette2-160"),
        ("imagewoof", 64, "imagewoof2-160"),
        ("imagewoof", 192, "imagewoof2-320"),
        ("imagenette", 256, "imagenette2"),
        ("imagewoof-old", 128, "imagewoof-160"),
        ("imagenette-old", 256, "imagenette"),
    ],
)
def test_a_download(web, tmp_path, name, size, folder):
    data = load_data(name, data_dir=tmp_path, image_size=size)
    assert web.asked == [(f"/{folder}.tgz", None)]
    assert (tmp_path / folder / "val").is_dir()
    assert (data.name, data.num_train, data.num_val) == (name, 10, 10)
    assert data.image_size == (size or 128,) * 2
    assert data.classes == tuple(IMAGENETTE_SETS[name][1].values())
    _, val = data.loaders(batch_size=10, seed=0, device=torch.device("cpu"), workers=0)
    batch = next(val.epoch(0))
    assert batch.labels.tolist() == list(range(10))
    assert batch.images.mean((1, 2, 3)).diff().min() > 0.2  # brighter from class to class, as they were painted


def test_a_cut_download_is_resumed(web, tmp_path):
    web.cut_after = [500]
    assert load_data("imagewoof", data_dir=tmp_path).num_train == 10
    assert web.asked == [("/imagewoof2-160.tgz", None), ("/imagewoof2-160.tgz", "bytes=500-")]


def test_a_folder_that_is_there_is_taken(web, tmp_path):
    load_data("imagewoof", data_dir=tmp_path)
    web.asked.clear()
    assert load_data("imagewoof", data_dir=tmp_path).num_train == 10
    assert web.asked == []


def test_a_folder_that_lacks_a_class(web, tmp_path):
    load_data("imagewoof", data_dir=tmp_path)
    for part in ("train", "val"):
        (tmp_path / "imagewoof2-160" / part / "n02088364").rename(tmp_path / f"beagles-{part}")
    message = (
        r"imagewoof2-160 does not hold the ten classes of 'imagewoof': n02088364 is missing or too many; delete the "
        "folder, and it is downloaded anew$"
    )
    with pytest.raises(InputError, match=message):
        load_data("imagewoof", data_dir=tmp_path)


def test_the_real_imagewoof(real_data):
    data = load_data("imagewoof", data_dir=real_data, image_size=48)
    assert (data.num_train, data.num_val, data.classes[2]) == (9025, 3929, "beagle")
