"""Today's edition of Imagewoof laid out in the split before December 2019."""

import importlib.util
import os
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "old_split.py"


@pytest.fixture
def lay_out():
    spec = importlib.util.spec_from_file_location("old_split", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.lay_out


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.JPEG"))


def test_the_validation_files_of_imagenet_are_the_old_validation_set(tmp_path, lay_out):
    for name in (
        "train/n1/n1_7.JPEG",
        "train/n1/ILSVRC2012_val_00000003.JPEG",
        "val/n1/ILSVRC2012_val_00000001.JPEG",
        "val/n2/n2_4.JPEG",
    ):
        file = tmp_path / "new" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    assert lay_out(tmp_path / "new", tmp_path / "old") == {"train": 2, "val": 2}
    assert names(tmp_path / "old") == [
        "train/n1/n1_7.JPEG",
        "train/n2/n2_4.JPEG",
        "val/n1/ILSVRC2012_val_00000001.JPEG",
        "val/n1/ILSVRC2012_val_00000003.JPEG",
    ]
    assert (tmp_path / "old/train/n2/n2_4.JPEG").read_text() == "val/n2/n2_4.JPEG"


def test_a_folder_that_is_there_is_left_alone(tmp_path, lay_out):
    (tmp_path / "old").mkdir()
    with pytest.raises(FileExistsError):
        lay_out(tmp_path / "new", tmp_path / "old")


@pytest.mark.skipif("ATTNCONV_TEST_DATA" not in os.environ, reason="needs the real images")
def test_the_real_images(tmp_path, lay_out):
    counts = lay_out(Path(os.environ["ATTNCONV_TEST_DATA"]) / "imagewoof2-160", tmp_path / "imagewoof-160")
    assert counts == {"train": 12_454, "val": 500}
    assert {len(list(folder.iterdir())) for folder in (tmp_path / "imagewoof-160/val").iterdir()} == {50}
