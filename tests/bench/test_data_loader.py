"""The benchmark of the loader and Pillow: that both do the same work. No time is asserted."""

import re

import pytest
import torch
from benchmarks import data_loader
from data.conftest import write_images

from attnconv.bench import machine
from attnconv.checks import InputError
from attnconv.data import load_data


@pytest.fixture
def folder(tmp_path):
    for part in ("train", "val"):
        write_images(tmp_path / "pets" / part / "cat", 5)
        write_images(tmp_path / "pets" / part / "dog", 4)
    return tmp_path / "pets"


def benchmark(folder, batch=4, images=8):
    data, cached = (
        load_data(str(folder), image_size=16, train_subset=images, cache_images=keep) for keep in (False, True)
    )
    return data_loader.data_benchmark(data, cached, batch=batch)


def test_every_candidate_reads_every_image(folder):
    found = benchmark(folder)
    calls = {name: found.build(name, found.inputs()) for name in found.names}
    assert {name: call() for name, call in calls.items()} == {"pillow": 8, "loader": 8, "loader-cached": 8}


def test_both_end_with_the_same_kind_of_pixels(folder, monkeypatch):
    """Of images of one colour, a crop shows that colour, whatever part it is."""
    from PIL import Image

    for path in folder.rglob("*.jpg"):
        Image.new("RGB", (30, 20), (200, 100, 50)).save(path)
    seen, stack = [], torch.stack
    monkeypatch.setattr(torch, "stack", lambda images: seen.append(stack(images)) or seen[-1])
    data = load_data(str(folder), image_size=16, train_subset=8)
    assert data_loader.pillow_call(data.train.paths, data, 8)() == 8
    (ours,) = data.train_loader(batch_size=8, seed=0, device=torch.device("cpu"), workers=0).epoch(0)
    torch.testing.assert_close(seen[0], ours.images)


def test_what_a_record_says(folder):
    found = benchmark(folder)
    assert (found.study, found.case, found.baseline) == ("data", "pets", "pillow")
    assert found.shape == {"images": 8, "B": 4, "S": 16, "decoder": data_loader.decoder()}


@pytest.mark.parametrize(("there", "name"), [(None, "pillow"), (object(), "simplejpeg")])
def test_the_decoder(monkeypatch, there, name):
    monkeypatch.setattr(data_loader.importlib.util, "find_spec", lambda _: there)
    assert data_loader.decoder() == name


def test_small_sets_are_not_read_from_files():
    data = load_data("digits", train_subset=8)
    with pytest.raises(InputError, match="data must be a folder or Imagenette or Imagewoof, which are files, got 'dig"):
        data_loader.data_benchmark(data, data, batch=4)


def test_batches_must_be_whole(folder):
    with pytest.raises(InputError, match="images must be a multiple of the batch of 3, got 8"):
        benchmark(folder, batch=3)


def test_the_script(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(machine, "SECONDS", 0.0)
    options = ("--images", "8", "--batch-size", "4", "--image-size", "16", "--rounds", "3")
    before = torch.get_num_threads()
    try:
        data_loader.main(["--data", str(folder), *options, "--out", str(tmp_path / "out")])
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert len((tmp_path / "out" / "data.jsonl").read_text().splitlines()) == 3
    out = capsys.readouterr().out
    assert re.findall(r"^(\S+): \d+ images/s$", out, re.M) == ["pillow", "loader", "loader-cached"]
