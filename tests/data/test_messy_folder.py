"""Folders as people have them: a test for each row of the tables in docs/data.md, and one folder with all of it."""

import contextlib
import json
import os
import shutil
import socket

import numpy as np
import pytest
from data.conftest import write_images
from PIL import Image, PngImagePlugin

from attnconv.checks import InputError
from attnconv.cli import main
from attnconv.data import decode, decode_image, load_data
from attnconv.recipes import run
from attnconv.train.config import RunConfig

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 27, 3), dtype=np.uint8))


def write(path, kind=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.save(path, kind, **options)
    return path


def heic(path):
    pytest.importorskip("pillow_heif").register_heif_opener()
    return write(path, "HEIF")


@pytest.fixture
def without_heif(monkeypatch):
    monkeypatch.setattr(decode, "reads_heic", lambda: False)


# Formats

FORMATS = {
    "JPEG": ("a.jpg", "a.jpeg", "a.JPG", "a.jpe", "a.jfif"),
    "PNG": ("a.png", "a.PNG"),
    "GIF": ("a.gif",),
    "WEBP": ("a.webp",),
    "BMP": ("a.bmp",),
    "TIFF": ("a.tif", "a.TIFF"),
    "PPM": ("a.ppm", "a.pgm"),
    "AVIF": ("a.avif",),
    "JPEG2000": ("a.jp2",),
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in FORMATS.items() for name in names])
def test_a_format_by_its_usual_names(image_folder, kind, name):
    path = write(image_folder / "val" / "dog" / name, kind)
    assert str(path) in load_data(str(image_folder)).val.paths
    assert decode_image(path, 3).shape == (3, 20, 27)


@pytest.mark.parametrize("name", ["a", "a.IMG", "a.jpg.download"])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_format_by_its_content(image_folder, kind, name):
    path = write(image_folder / "val" / "dog" / name, kind)
    assert str(path) in load_data(str(image_folder)).val.paths


@pytest.mark.parametrize("text", [b"BMW 320, a car of 1983", b"BM" + bytes(62), b"P3 is the third of them"])
def test_text_that_begins_as_an_image_is_none(image_folder, text):
    (image_folder / "val" / "dog" / "notes.txt").write_bytes(text)
    assert load_data(str(image_folder)).notes == ("1 file passed over: 1 no image",)


def test_a_comment_may_come_first_in_a_ppm(image_folder):
    path = image_folder / "val" / "dog" / "a"
    path.write_bytes(b"P5\n# of a scanner\n2 1\n255\nab")
    assert str(path) in load_data(str(image_folder)).val.paths


@pytest.mark.parametrize("name", ["a.heic", "a.HEIC", "a.heif", "a"])
def test_heic_where_pillow_heif_is(image_folder, name):
    path = heic(image_folder / "val" / "dog" / name)
    data = load_data(str(image_folder))
    assert str(path) in data.val.paths
    assert data.passed_over == {}
    assert decode_image(path, 3).shape == (3, 20, 27)


def test_heic_where_it_is_not(image_folder, without_heif):
    path = heic(image_folder / "val" / "dog" / "a.heic")
    data = load_data(str(image_folder))
    assert data.notes == ("1 file passed over: 1 HEIC (pip install pillow-heif)",)
    with pytest.raises(InputError, match="HEIC with pillow-heif"):
        decode_image(path, 3)


TEXT = "a" * 2**21


def texts(kind):
    found = PngImagePlugin.PngInfo()
    if kind == "iTXt":
        found.add_itxt("key", TEXT, zip=True)
    elif kind == "many":
        for number in range(70):
            found.add_text(f"key{number}", "a" * 1_000_000)
    else:
        found.add_text("key", TEXT, zip=kind == "zTXt")
    return {"pnginfo": found}


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt", "iCCP", "many"])
def test_a_png_with_megabytes_beside_its_pixels(tmp_path, kind):
    options = {"icc_profile": bytes(2**21)} if kind == "iCCP" else texts(kind)
    path = write(tmp_path / "a.png", **options)
    assert (decode_image(path, 3).permute(1, 2, 0).numpy() == np.array(PICTURE)).all()


# Layouts


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "eval", "test", "testing", "Val", "TEST"])
def test_names_of_the_validation_folder(image_folder, name):
    (image_folder / "val").rename(image_folder / name)
    (image_folder / "train").rename(image_folder / "Train")
    data = load_data(str(image_folder))
    assert (data.num_train, data.num_val, data.notes) == (13, 5, ())


def test_of_two_the_first_of_the_list_is_taken_and_the_other_is_said(image_folder):
    shutil.copytree(image_folder / "val", image_folder / "test")
    data = load_data(str(image_folder))
    assert data.val.paths[0].startswith(str(image_folder / "val"))
    assert data.notes == ("5 files passed over: 5 in test/, which is not used",)


def test_no_validation_folder(image_folder):
    shutil.rmtree(image_folder / "val")
    data = load_data(str(image_folder), val_split=0.2)
    assert (data.num_train, data.num_val) == (10, 3)
    assert sorted(data.val.labels) == [0, 1, 2]
    again, other = (load_data(str(image_folder), val_split=0.5, seed=seed).val.paths for seed in (0, 1))
    assert load_data(str(image_folder), val_split=0.5).val.paths == again != other


def test_classes_alone(image_folder):
    data = load_data(str(image_folder / "train"), val_split=0.2)
    assert (data.num_train, data.num_val, data.classes) == (10, 3, ("cat", "dog", "newt"))


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (0.2, "'pets' has validation images of its own: leave val_split out"),
        (0.0, "val_split must be above 0 and below 1, got 0.0"),
        (1, "val_split must be above 0 and below 1, got 1"),
    ],
)
def test_val_splits_that_are_refused(image_folder, share, message):
    if share != 0.2:
        shutil.rmtree(image_folder / "val")
    with pytest.raises(InputError, match=message):
        load_data(str(image_folder), val_split=share)


def test_a_named_set_is_not_divided():
    with pytest.raises(InputError, match="'digits' has validation images of its own: leave val_split out"):
        load_data("digits", val_split=0.2)


def test_one_image_a_class_cannot_be_divided(tmp_path):
    for name in ("cat", "dog"):
        write(tmp_path / "photos" / name / "a.jpg")
    with pytest.raises(InputError, match="'photos' has one image a class: none can be held out for validation"):
        load_data(str(tmp_path / "photos"), val_split=0.2)


def test_sub_folders_of_a_class(image_folder):
    write(image_folder / "train" / "cat" / "more" / "and-more" / "a.jpg")
    data = load_data(str(image_folder))
    assert data.num_train == 14
    assert data.train.labels.count(0) == 6


def test_a_link_to_a_folder_above_is_walked_once(image_folder):
    (image_folder / "train" / "cat" / "again").symlink_to(image_folder / "train" / "cat")
    data = load_data(str(image_folder))
    assert (data.num_train, data.passed_over) == (13, {"link to a folder above it": 1})


def test_a_linked_folder_is_walked(image_folder, tmp_path):
    write_images(tmp_path / "elsewhere", 4, first=500)
    (image_folder / "train" / "cat" / "linked").symlink_to(tmp_path / "elsewhere")
    assert load_data(str(image_folder)).num_train == 17


def test_an_empty_class_in_val_is_as_an_absent_one(image_folder):
    (image_folder / "val" / "cat").mkdir()
    (image_folder / "val" / "wolf").mkdir()
    assert load_data(str(image_folder)).num_val == 5


def test_a_single_class_is_said_to_be_one(image_folder):
    for part, names in (("train", ("cat", "newt")), ("val", ("newt",))):
        for name in names:
            shutil.rmtree(image_folder / part / name)
    assert load_data(str(image_folder)).notes == ("'pets' has one class, 'dog': there is nothing to tell apart",)


# What is passed over


def make_fifo(path):
    os.mkfifo(path)


def make_socket(path):
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as made:
        made.bind(path.name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("__MACOSX/._a.jpg", "hidden or of the system"),
        ("@eaDir/a.jpg", "hidden or of the system"),
        ("cat/@eaDir/a.jpg", "hidden or of the system"),
        ("cat/._a.jpg", "hidden or of the system"),
        ("cat/.DS_Store", "hidden or of the system"),
        ("cat/Thumbs.db", "hidden or of the system"),
        ("cat/desktop.ini", "hidden or of the system"),
        (".ipynb_checkpoints/a-checkpoint.jpg", "hidden or of the system"),
        ("cat/notes.txt", "no image"),
        ("cat/labels.json", "no image"),
        ("cat/clip.mp4", "no image"),
        ("loose.jpg", "in no class folder"),
        ("README.md", "no image"),
        ("../labels.csv", "no image"),
        ("../loose.png", "in no class folder"),
        ("../extra/cat/a.jpg", "in extra/, which is not used"),
    ],
)
def test_files_that_are_passed_over(image_folder, name, reason):
    path = image_folder / "train" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0\0\0\x18ftypmp42")
    data = load_data(str(image_folder))
    assert (data.num_train, data.classes) == (13, ("cat", "dog", "newt"))
    assert data.passed_over == {reason: 1}
    assert data.notes == (f"1 file passed over: 1 {reason}",)


@pytest.mark.parametrize("make", [make_fifo, make_socket])
def test_files_that_cannot_be_read_are_passed_over(image_folder, make, monkeypatch):
    monkeypatch.chdir(image_folder / "train" / "cat")
    make(image_folder / "train" / "cat" / "odd")
    assert load_data(str(image_folder)).passed_over == {"cannot be read": 1}


# All of it


@pytest.fixture
def messy(tmp_path):
    """24 files: 5 training images, 3 of validation, and 16 others for nine reasons."""
    folder = tmp_path / "messy"
    for name, kind in (
        *(("Train/cat/a.JPG", "JPEG"), ("Train/cat/2019/b.jfif", "JPEG"), ("Train/cat/2019/c", "PNG")),
        *(("Train/dog/a.avif", "AVIF"), ("Train/dog/b.jp2", "JPEG2000")),
        *(("Valid/cat/a.webp", "WEBP"), ("Valid/dog/deep/er/a.jpe", "JPEG"), ("Valid/dog/b.tiff", "TIFF")),
        *(("Train/loose.jpg", "JPEG"), ("test/cat/a.jpg", "JPEG"), ("test/dog/a.jpg", "JPEG")),
    ):
        write(folder / name, kind)
    for name in (
        *("__MACOSX/Train/cat/._a.JPG", "Train/@eaDir/a.jpg", "Train/cat/._a.JPG", "Train/cat/Thumbs.db"),
        *("Train/dog/.ipynb_checkpoints/a-checkpoint.jpg", "Valid/.DS_Store", "Valid/dog/desktop.ini"),
        *("Train/cat/notes.txt", "Train/dog/list", "Valid/cat/b.json", "labels.csv"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("no picture")
    heic(folder / "Train" / "cat" / "d.heic")
    os.mkfifo(folder / "Train" / "cat" / "pipe")
    (folder / "Valid" / "wolf").mkdir()
    return folder


PASSED = {
    "hidden or of the system": 7,
    "no image": 4,
    "in no class folder": 1,
    "in test/, which is not used": 2,
    "HEIC (pip install pillow-heif)": 1,
    "cannot be read": 1,
}


def test_each_file_of_a_messy_folder_is_in_or_is_counted(messy, without_heif):
    data = load_data(str(messy))
    files = sum(len(names) for _, _, names in os.walk(messy))
    assert files == data.num_train + data.num_val + sum(data.passed_over.values())
    assert (data.num_train, data.num_val, data.passed_over) == (5, 3, PASSED)
    assert data.notes == (
        "16 files passed over: 1 HEIC (pip install pillow-heif), 1 cannot be read, 7 hidden or of the system, "
        "1 in no class folder, 2 in test/, which is not used, 4 no image",
    )


def test_what_is_passed_over_is_said_once_and_stands_in_the_result(messy, tmp_path, without_heif, capfd):
    config = RunConfig(
        model="convnet3", data=str(messy), image_size=16, epochs=2, batch_size=2, workers=0, device="cpu"
    )
    result = run(config, tmp_path / "run")
    assert result["passed_over"] == PASSED
    assert json.loads((tmp_path / "run" / "result.json").read_text())["passed_over"] == PASSED
    assert capfd.readouterr().err.count("16 files passed over") == 1
    assert main(["evaluate", str(tmp_path / "run"), "--device", "cpu", "--workers", "0", "--json"]) == 0
    said = capfd.readouterr()
    assert json.loads(said.out)["passed_over"] == PASSED
    assert "16 files passed over" in said.err


def test_predict_on_a_messy_folder(messy, tmp_path, without_heif, capfd):
    config = RunConfig(
        model="convnet3", data=str(messy), image_size=16, epochs=1, batch_size=2, workers=0, device="cpu"
    )
    run(config, tmp_path / "run", progress=False)
    capfd.readouterr()
    arguments = ["predict", str(tmp_path / "run"), str(messy / "Train"), "--device", "cpu"]
    assert main(arguments) == 0
    said = capfd.readouterr()
    assert "8 files passed over: 1 HEIC (pip install pillow-heif), 1 cannot be read, 4 hidden or of" in said.out
    broken = messy / "Train" / "cat" / "broken.jpg"
    broken.write_text("<html>not found</html>")
    assert main([*arguments, "--json"]) == 2
    said = capfd.readouterr()
    report = json.loads(said.out)
    assert (len(report["predictions"]), report["skipped_images"]) == (6, [str(broken)])
    assert said.err.endswith(
        f"1 of 7 images could not be decoded, first {broken}; --skip-bad-images leaves such files out\n"
    )
    assert main([*arguments, "--json", "--skip-bad-images"]) == 0
    capfd.readouterr()
    assert main(["predict", str(tmp_path / "run"), str(broken), "--device", "cpu"]) == 2
    assert capfd.readouterr().out == ""


def test_folders_deep_below_each_other(image_folder):
    """Above a thousand, Python's own limit would end the walk with a page of traceback."""
    first = next(path for path in sorted((image_folder / "train").iterdir()) if path.is_dir())
    first.joinpath(*["d"] * 150).mkdir(parents=True)
    with pytest.raises(InputError, match=r"^folder \S* lies more than 100 folders deep$"):
        load_data(str(image_folder))
